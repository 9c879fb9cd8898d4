"""The images of Helm charts, as the real helm renders them; and programs that misbehave in its place."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path

import pytest

from charts import chart
from go_tools import search_path
from iarproxy.errors import Malformed, Refused, Unavailable
from iarproxy.mirror.sync.charts import Chart, Charts
from iarproxy.oci import Digest, DigestReference, Platform
from images import Published, index, small_image
from registry_faults import Fault
from world import NAME, World

os.environ["PATH"] = search_path()

real_helm = pytest.mark.real("helm")

POD = "kind: Pod\nspec:\n  containers:\n  - {name: app, image: '%s'}\n"
CHART = {
    "values.yaml": f"tag: '1'\nregistry: {NAME}\nsidecar: false\n",
    "templates/pod.yaml": POD % "{{ .Values.registry }}/team/app:{{ .Values.tag }}",
    "templates/settings.yaml": "kind: ConfigMap\ndata:\n"
    "  helper: --helper-image={{ .Values.registry }}/team/helper:1.0\n"
    "  other: {{ .Values.registry }}/team/missing:1.0\n",
}


async def images(
    world: World, published: Published, *, values: tuple[bytes, ...] = (), charts: Charts | None = None
) -> Chart:
    world.registry.content.publish("charts/app", "1.0.0", published)
    reference = DigestReference(world.repository("charts/app"), published.digest)
    return await (charts or world.mirror.charts).images(reference, "app:1.0.0", (Platform("linux", "amd64"),), values)


def asked(found: Chart) -> set[str]:
    return {str(each.locked or each.reference) for each in found.asked}


@real_helm
async def test_images_are_found_by_rendering(world: World) -> None:
    """What containers name is asked for; what looks like an image is, where its registry has it, and listed else."""
    world.registry.content.publish("team/helper", "1.0", small_image())
    found = await images(world, chart(CHART))
    assert {f"{NAME}/team/app:1", f"{NAME}/team/helper:1.0"} == asked(found)
    assert (f"app:1.0.0: {NAME}/team/missing:1.0 (app/templates/settings.yaml, other)",) == found.unresolved
    assert {(Platform("linux", "amd64"),)} == {each.platforms for each in found.asked}
    assert {"chart app:1.0.0: Pod, container app", "chart app:1.0.0: app/templates/settings.yaml, helper"} == {
        why for each in found.asked for why in each.why
    }


@real_helm
async def test_values_files_decide(world: World) -> None:
    """Several files, the last one wins, as helm takes them."""
    values = (b"tag: '2'\n", b"tag: '3'\n")
    assert f"{NAME}/team/app:3" in asked(await images(world, chart(CHART), values=values))


@real_helm
async def test_a_subchart_is_rendered_with_its_chart(world: World) -> None:
    """Dependencies inside the archive are helm's business."""
    inner = {
        "charts/inner/Chart.yaml": "apiVersion: v2\nname: inner\nversion: 0.1.0\n",
        "charts/inner/templates/pod.yaml": POD % f"{NAME}/team/inner:9",
        "Chart.yaml": "apiVersion: v2\nname: app\nversion: 1.0.0\n"
        "dependencies:\n- {name: inner, version: 0.1.0, repository: 'https://charts.example.com'}\n",
    }
    assert f"{NAME}/team/inner:9" in asked(await images(world, chart({**CHART, **inner})))


@real_helm
async def test_an_image_with_a_digest_is_locked_to_it(world: World) -> None:
    """Tag and digest: the tag shall stand for it; a digest alone is asked for by digest."""
    digest = Digest.of(b"x")
    pods = {
        "templates/a.yaml": POD % f"{NAME}/team/app:1@{digest}",
        "templates/b.yaml": POD % f"{NAME}/team/app@{digest}",
    }
    found = await images(world, chart(pods))
    assert {f"{NAME}/team/app:1@{digest}", f"{NAME}/team/app@{digest}"} == asked(found)
    assert {None, digest} == {each.locked and each.locked.digest for each in found.asked}


@real_helm
async def test_the_authors_list_counts(world: World) -> None:
    """Images of the annotation are asked for where their registry has them; a stale one blocks nothing."""
    world.registry.content.publish("team/extra", "5", small_image())
    stated = f"- {{name: a, image: '{NAME}/team/extra:5'}}\n- {{name: b, image: '{NAME}/team/gone:5'}}\n"
    published = chart({"templates/a.yaml": "kind: Service\n"}, annotations={"artifacthub.io/images": stated})
    found = await images(world, published)
    assert {f"{NAME}/team/extra:5"} == asked(found)
    assert (f"app:1.0.0: {NAME}/team/gone:5 (annotation artifacthub.io/images)",) == found.unresolved


@real_helm
async def test_a_registry_that_does_not_answer_resolves_nothing_away(world: World) -> None:
    """What may be an image counts as one, so that the sync says that it is lacking."""
    world.registry.faults.add("*/team/missing/*", Fault(status=500))
    found = await images(world, chart(CHART))
    assert f"{NAME}/team/missing:1.0" in asked(found)
    assert (f"app:1.0.0: {NAME}/team/helper:1.0 (app/templates/settings.yaml, helper)",) == found.unresolved


@real_helm
async def test_an_unknown_registry_is_unresolved(world: World) -> None:
    """A word that looks like an image of a registry that is no upstream of ours is listed, and asks nobody."""
    files = {"templates/a.yaml": "kind: ConfigMap\ndata: {x: 'elsewhere.example.org/a/b:1.0'}\n"}
    found = await images(world, chart(files))
    assert ("app:1.0.0: elsewhere.example.org/a/b:1.0 (app/templates/a.yaml, x)",) == found.unresolved


@real_helm
async def test_a_chart_that_does_not_render_is_one_error(world: World) -> None:
    """It says what helm says, and names a remedy."""
    files = {"templates/a.yaml": '{{ required "a password is needed" .Values.password }}'}
    with pytest.raises(
        Refused, match=r"app:1\.0\.0: helm does not render it: Error: .*a password is needed.*values file"
    ):
        await images(world, chart(files))


@real_helm
@pytest.mark.parametrize("template", ['{{ repeat 1000000000 "too much" }}', "{{ until 2000000000 }}"])
async def test_a_chart_that_is_a_bomb(world: World, template: str) -> None:
    """Gigabytes out of a line are refused by the kernel, and the error says so in short."""
    with pytest.raises(Refused, match=r"does not render it: fatal error: .*memory") as refused:
        await images(world, chart({"templates/a.yaml": template}))
    assert len(str(refused.value)) < 600


@real_helm
async def test_rendering_asks_nobody(world: World) -> None:
    """No schema from elsewhere, no name looked up, no dependency fetched; and no home of ours is read."""
    schema = f'{{"$ref": "{world.registry.url}/schema.json"}}'
    files = {
        "values.schema.json": schema,
        "templates/a.yaml": 'kind: ConfigMap\ndata: {x: "{{ getHostByName "localhost" }}", '
        'y: \'{{ (lookup "v1" "Pod" "" "").items }}\'}\n',
    }
    await images(world, chart(files))
    assert 0 == world.registry.count("", "schema.json")


@real_helm
async def test_no_archive(world: World) -> None:
    """Bytes that are no archive are helm's to refuse."""
    good = chart(CHART)
    archive = good.layers[0]
    bad = Published(
        good.raw.replace(str(archive).encode(), str(Digest.of(b"no tar")).encode()),
        good.media_type,
        {**good.blobs, Digest.of(b"no tar"): b"no tar"},
    )
    with pytest.raises((Refused, Unavailable)):
        await images(world, bad)


@pytest.mark.parametrize("published", [small_image(), index([small_image()])], ids=["image", "index"])
async def test_no_chart(world: World, published: Published) -> None:
    """An image in the list of charts is told apart by its config."""
    with pytest.raises(Malformed, match=r"is no Helm chart: .*references"):
        await images(world, published)


def stand_in(world: World, folder: Path, script: str | None, *, patience: float = 30.0) -> Charts:
    """Charts that find this program as their helm; None: there is none."""
    folder.mkdir()
    if script is not None:
        (folder / "helm").write_text(f"#!/bin/sh\n{script}\n")
        (folder / "helm").chmod(0o755)
    path = f"{folder}{os.pathsep}/usr/bin{os.pathsep}/bin" if script is not None else str(folder)
    given = world.mirror.charts
    return given.with_environment({"PATH": path, "SECRET": "s3cret"}, patience)


async def test_helm_is_missing(world: World, tmp_path: Path) -> None:
    """One error that names the remedy; nothing is fetched for it."""
    charts = stand_in(world, tmp_path / "bin", None)
    with pytest.raises(Refused, match=r"there is none on PATH: install it .*or take `charts` out"):
        await images(world, chart(CHART), charts=charts)


async def test_helm_that_never_ends(world: World, tmp_path: Path) -> None:
    """It is ended with all that it started."""
    mark = tmp_path / "pid"
    charts = stand_in(world, tmp_path / "bin", f"sleep 600 & echo $! > {mark}; wait", patience=1.0)
    with pytest.raises(Refused, match="did not render it within 1 s, and was ended"):
        await images(world, chart(CHART), charts=charts)
    async with asyncio.timeout(10):
        while is_running(int(mark.read_text())):
            await asyncio.sleep(0.05)


def is_running(pid: int) -> bool:
    """Whether there is such a process, dead ones that nobody has counted apart."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


async def test_helm_that_says_too_much(world: World, tmp_path: Path) -> None:
    """Forty megabytes of manifests are refused, and not kept."""
    charts = stand_in(world, tmp_path / "bin", "head -c 40000000 /dev/zero | tr '\\0' a")
    with pytest.raises(Malformed, match=r"its manifests have .* at most"):
        await images(world, chart(CHART), charts=charts)


async def test_helm_that_takes_all_memory(world: World, tmp_path: Path) -> None:
    """The kernel refuses it more than its part."""
    script = f"exec {shutil.which('python3')} -c 'bytearray(3 << 30)'"
    charts = stand_in(world, tmp_path / "bin", script)
    with pytest.raises(Refused, match=r"does not render it: .*MemoryError"):
        await images(world, chart(CHART), charts=charts)


async def test_helm_knows_nothing_of_ours(world: World, tmp_path: Path) -> None:
    """Its environment has no secret, its home is empty and gone afterwards."""
    charts = stand_in(world, tmp_path / "bin", f"env > {tmp_path}/env; pwd > {tmp_path}/pwd; ls >> {tmp_path}/pwd")
    found = await images(world, chart(CHART), charts=charts)
    assert ((), ()) == (found.asked, found.unresolved)
    told = (tmp_path / "env").read_text()
    folder, *files = (tmp_path / "pwd").read_text().split()
    assert ("s3cret" in told, f"HOME={folder}\n" in told, files) == (False, True, ["chart.tgz"])
    assert not Path(folder).exists()


async def test_what_helm_says_is_cut_and_harmless(world: World, tmp_path: Path) -> None:
    """Nothing in an error that a terminal would obey."""
    charts = stand_in(world, tmp_path / "bin", "printf 'bad \\033[31m%1000s end' x >&2; exit 3")
    with pytest.raises(Refused) as refused:
        await images(world, chart(CHART), charts=charts)
    assert ("\x1b" in str(refused.value), len(str(refused.value)) < 600) == (False, True)
