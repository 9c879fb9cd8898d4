"""Helm charts of a set: the images that a chart needs, as its rendered manifests name them.

Rule 1: the person's `helm template` renders the chart's file as it came from upstream. No archive is opened here, and
        dependencies inside it are helm's business.
Rule 2: helm gets a home of its own that is empty (no credentials, no plugins), no cluster, and nobody to ask: names are
        not looked up, schemas are not fetched, and proxies lead nowhere. Time, memory and output are bounded.
Rule 3: images of containers and image volumes are needed, whatever upstream says. What only looks like an image is
        needed too if its registry has it; what upstream says that it has not is listed as unresolved, never dropped
        silently. Where upstream gives no answer it counts as needed, so that the set says what is lacking.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from iarproxy.errors import Malformed, Refused, Unavailable
from iarproxy.mirror.programs import Ended, run
from iarproxy.mirror.serving.blobs import Blobs
from iarproxy.mirror.serving.documents import Documents
from iarproxy.mirror.sync.values import Asked, of_locked
from iarproxy.oci import Descriptor, DigestReference, Manifest, Platform, Repository
from iarproxy.oci.chart_images import CONTENT, Mentioned, annotated_images, is_chart, rendered_images
from iarproxy.oci.lock import Locked, Named
from iarproxy.oci.yaml_text import MAX_TEXT
from iarproxy.store import Store
from iarproxy.upstream import Purpose, Upstreams

_MAX_CHART = 64 * 2**20  # bytes of its archive
_MAX_CONFIG = 2**20
_MAX_VALUES = 16 * 2**20  # bytes of all values files
_MAX_SAID = 16_384  # bytes of what helm says beside the manifests
_SHOWN = 200  # characters of its beginning, and of its end
_MEMORY = 2 * 2**30  # bytes
_PATIENCE = 60.0  # seconds
_PARALLEL = 4
_NOWHERE = "http://127.0.0.1:9"
_MISSING = (
    "charts are rendered with helm, and there is none on PATH: install it (https://helm.sh/docs/intro/install/),"
    " or take `charts` out of the set and name the images in `references`"
)


@dataclass(frozen=True, slots=True)
class Chart:
    """What a chart asks for.

    Attributes:
        asked: its images, for the platforms of the set.
        unresolved: what looks like an image and is none that upstream has, with its place; sorted.
    """

    asked: tuple[Asked, ...]
    unresolved: tuple[str, ...]


class Charts:
    """Finds the images of charts.

    Args:
        environment: ours; helm is looked for on its PATH.
        patience: seconds that rendering may take.
    """

    def __init__(
        self,
        *,
        store: Store,
        upstreams: Upstreams,
        documents: Documents,
        blobs: Blobs,
        environment: Mapping[str, str] = os.environ,
        patience: float = _PATIENCE,
    ) -> None:
        self._store = store
        self._upstreams = upstreams
        self._documents = documents
        self._blobs = blobs
        self._environment = environment
        self._patience = patience
        self._turn = asyncio.Semaphore(1)  # helm may take all the memory that it is given
        self._gate = asyncio.Semaphore(_PARALLEL)

    def with_environment(self, environment: Mapping[str, str], patience: float) -> Charts:
        """The same, with another environment and patience."""
        return Charts(
            store=self._store,
            upstreams=self._upstreams,
            documents=self._documents,
            blobs=self._blobs,
            environment=environment,
            patience=patience,
        )

    async def images(
        self, chart: DigestReference, name: str, platforms: tuple[Platform, ...] = (), values: Sequence[bytes] = ()
    ) -> Chart:
        """The images of a chart, whose archive is fetched for it.

        Args:
            chart: its manifest.
            name: of the chart, for people: the set's own word.
            platforms: of images that are indexes, only these; empty: all.
            values: the contents of values files, as `helm template --values` takes them, in their order.

        Raises:
            Refused: it is no chart, helm is missing, or does not render it. Unavailable: it cannot be had now.
        """
        manifest = await self._documents.by_digest(chart, Purpose.BACKGROUND)
        archive, config = _parts(manifest, name)
        stated = annotated_images(await self._bytes(chart.repository, config, _MAX_CONFIG))
        manifests = await self._rendered(chart.repository, archive, name, values)
        rendered = await asyncio.to_thread(rendered_images, manifests)
        asked = {_asked(each.named, platforms, f"chart {name}: {each.where}") for each in rendered.images}
        known = {each.named for each in rendered.images}
        perhaps = [each for each in (*stated, *rendered.mentioned) if each.named not in known]
        unresolved = [f"{name}: {each}" for each in rendered.unread]
        for each, has in zip(perhaps, await asyncio.gather(*map(self._has, perhaps)), strict=True):
            if has and each.named is not None:
                asked.add(_asked(each.named, platforms, f"chart {name}: {each.where}"))
            else:
                unresolved.append(f"{name}: {each}")
        return Chart(tuple(sorted(asked, key=_by_name)), tuple(sorted(set(unresolved))))

    @property
    def _path(self) -> str:
        return self._environment.get("PATH", os.defpath)

    async def _has(self, each: Mentioned) -> bool:
        """Whether upstream has it, or may have it."""
        if each.named is None:
            return False
        wanted = each.named.digest or each.named.pulled.tag
        try:
            upstream = self._upstreams[each.named.repository.registry]
            async with self._gate:
                await upstream.told(each.named.repository.name, wanted, Purpose.BACKGROUND)
        except Refused:
            return False
        except Unavailable:
            return True  # rule 3
        return True

    async def _bytes(self, repository: Repository, blob: Descriptor, most: int) -> bytes:
        if blob.size > most:
            raise Refused(f"{repository}@{blob.digest} has {blob.size} bytes; of a chart at most {most} are read")
        await self._blobs.hold(repository, blob, purpose=Purpose.BACKGROUND)
        raw = await self._store.read(blob.digest, most)
        if raw is None:
            raise Unavailable(f"{repository}@{blob.digest} was fetched and is not held any more; run the sync again")
        return raw

    async def _rendered(self, repository: Repository, archive: Descriptor, name: str, values: Sequence[bytes]) -> bytes:
        """What `helm template` prints for the chart."""
        helm = shutil.which("helm", path=self._path)
        if helm is None:
            raise Refused(_MISSING)
        if sum(map(len, values)) > _MAX_VALUES:
            raise Refused(f"{name}: its values files have more than {_MAX_VALUES} bytes")
        files = {"chart.tgz": await self._bytes(repository, archive, _MAX_CHART)}
        files |= {f"values-{number}.yaml": text for number, text in enumerate(values)}
        async with self._turn:
            with TemporaryDirectory(prefix="iarproxy-chart-") as folder:
                await asyncio.to_thread(_write, Path(folder), files)
                return await self._run(helm, folder, list(files), name)

    async def _run(self, helm: str, folder: str, files: list[str], name: str) -> bytes:
        given = [f"--values={each}" for each in files[1:]]
        # The schema of a chart's values may lie anywhere in the network; whether values fit is asked at installation.
        command = [helm, "template", "release", files[0], "--skip-schema-validation", *given]
        try:
            async with asyncio.timeout(self._patience):
                ended = await run(
                    command,
                    environment=_environment(folder, self._path),
                    folder=folder,
                    most=(MAX_TEXT + 1, _MAX_SAID),
                    memory=_MEMORY,
                )
        except TimeoutError:
            raise Refused(f"{name}: helm did not render it within {self._patience:g} s, and was ended") from None
        except OSError as error:
            raise Refused(f"{name}: {helm} cannot be run: {error.strerror}") from error
        if ended.status != 0:
            raise Refused(f"{name}: helm does not render it: {_said(ended)}; perhaps it wants a values file")
        return ended.output


def _parts(manifest: Manifest, name: str) -> tuple[Descriptor, Descriptor]:
    """A chart's archive and its metadata."""
    config = manifest.config
    if config is None or not is_chart(config.media_type):
        kind = "it is an index" if manifest.is_index else f"its config is {config.media_type if config else 'absent'}"
        raise Malformed(f"{name} is no Helm chart: {kind}; write images into `references`")
    found = [layer for layer in manifest.layers if layer.media_type in CONTENT]
    if len(found) != 1:
        raise Malformed(f"{name} has {len(found)} archives among its layers; a Helm chart has one")
    return found[0], config


def _environment(folder: str, path: str) -> dict[str, str]:
    """What helm gets to know: nothing of ours but where programs are."""
    homes = ("HOME", "TMPDIR", "HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME", "XDG_RUNTIME_DIR")
    proxies = ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY")
    return {
        "PATH": path,
        "KUBECONFIG": f"{folder}/no-cluster",
        **dict.fromkeys(homes, folder),
        **dict.fromkeys(proxies, _NOWHERE),
    }


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).write_bytes(content)


def _said(ended: Ended) -> str:
    """The error among what helm said, on one line; or all of it where none is marked as one."""
    lines = ended.errors.decode("utf-8", "replace").splitlines()
    marked = [line for line in lines if line.startswith(("Error:", "fatal error:"))]
    text = " ".join(" ".join(marked[:1] or lines).split())
    shown = "".join(each if each.isprintable() else "?" for each in text)
    if len(shown) > 2 * _SHOWN:
        shown = f"{shown[:_SHOWN]} ... {shown[-_SHOWN:]}"
    return shown or (f"it was ended by signal {-ended.status}" if ended.status < 0 else f"exit status {ended.status}")


def _asked(named: Named, platforms: tuple[Platform, ...], why: str) -> Asked:
    if named.digest is None:
        return Asked(named.pulled, platforms, (why,))
    if named.tag is None:
        return Asked(DigestReference(named.repository, named.digest), platforms, (why,))
    return of_locked(Locked(named.pulled, named.digest), platforms, why)


def _by_name(asked: Asked) -> tuple[str, tuple[str, ...]]:
    return str(asked.reference), asked.why
