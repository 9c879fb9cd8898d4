"""Kubernetes: a DaemonSet that writes hosts.toml on each node; and Talos, whose machine configuration does that itself.

Rule 1: the pod may touch one folder of the node, containerd's certs.d, and nothing else: no capabilities, no privilege
        escalation, no token of the API, no network needs of its own, a read-only root.
Rule 2: it compares and writes every minute, so it is idempotent and follows changes of its ConfigMap; files without our
        mark are left alone, and said in its log.
Rule 3: undo is the same DaemonSet that removes what carries our mark; a pod that merely ends removes nothing.
"""

from __future__ import annotations

import json

from iarproxy.cli.setup import hosts_toml
from iarproxy.cli.setup.plan import EVERY, MARK, Fall, Finding, Plan, Weight, Whole, Wish
from iarproxy.cli.setup.reading import read_ca
from iarproxy.errors import Refused

FILE = "iarproxy-mirror.yaml"
UNDO_FILE = "iarproxy-mirror-undo.yaml"
TALOS_FILE = "iarproxy-talos.yaml"
_CERTS = "/etc/containerd/certs.d"
_CA = "iarproxy-ca.pem"

_WRITE = """\
cd /wanted || exit 1
while :; do
  for each in *.toml; do
    folder="/certs.d/${each%.toml}"; file="$folder/hosts.toml"
    if [ -e "$file" ] && ! head -n 1 "$file" | grep -q 'iarproxy setup'; then
      echo "$file: written by others; left alone"; continue
    fi
    cmp -s "$each" "$file" && continue
    mkdir -p "$folder" && cp "$each" "$file.new" && mv "$file.new" "$file" && echo "$file: written"
  done
  if [ -e CA ] && ! cmp -s CA /certs.d/CA; then cp CA /certs.d/CA.new && mv /certs.d/CA.new /certs.d/CA; fi
  sleep 60
done
""".replace("CA", _CA)
_REMOVE = """\
for file in /certs.d/*/hosts.toml; do
  [ -e "$file" ] && head -n 1 "$file" | grep -q 'iarproxy setup' || continue
  rm -f "$file" && echo "$file: removed"; rmdir "${file%/*}" 2>/dev/null
done
rm -f /certs.d/CA
while :; do sleep 3600; done
""".replace("CA", _CA)


def plan(wish: Wish) -> Plan:
    """The manifests: one that writes, one that takes back."""
    then = (
        f"kubectl apply -f {wish.folder / FILE}; nothing to restart: hosts.toml is read at each pull",
        (
            f"to take it back: kubectl apply -f {wish.folder / UNDO_FILE}, wait until its pods are ready, and:"
            " kubectl delete namespace iarproxy-setup"
        ),
    )
    notes = [
        (
            f"every node must reach {wish.mirror.url}, and its containerd must have config_path = {_CERTS}"
            " (kubeadm: write it; most managed clusters have it)"
        ),
        "prove it on a node: iarproxy setup containerd --check --url ... (or crictl pull)",
        f"the pods pull {wish.image}; give another image with a shell with --image",
        "not tested in a real cluster",
    ]
    if EVERY in wish.mirror.registries:
        notes.append("_default also catches registries of your own: give each a folder with its real `server`")
    changes = (
        Whole(wish.folder / FILE, manifest(wish).encode()),
        Whole(wish.folder / UNDO_FILE, undo_manifest(wish).encode()),
    )
    return Plan(changes, then, tuple(notes))


def manifest(wish: Wish) -> str:
    """Namespace, ConfigMap and the DaemonSet that writes."""
    mirror = wish.mirror
    with_ca = mirror.ca is not None and not mirror.plain
    data = {
        f"{hosts_toml.folder_name(each).replace(':', '_')}.toml": hosts_toml.render(
            each, mirror, wish.fall, ca=f"{_CERTS}/{_CA}" if with_ca else None
        )
        for each in mirror.registries
    }
    if mirror.ca is not None and with_ca:
        data[_CA] = read_ca(mirror.ca).decode(errors="replace")
    texts = [f"  {json.dumps(name)}: |\n{_indented(text, 4)}" for name, text in data.items()]
    config = f"apiVersion: v1\nkind: ConfigMap\nmetadata: {_META}\ndata:\n" + "".join(texts)
    return "---\n".join([f"{MARK}\n{_NAMESPACE}", config, _daemon_set(wish.image, _WRITE, mounted=True)])


def undo_manifest(wish: Wish) -> str:
    """The DaemonSet that removes what the other one wrote."""
    return "---\n".join([f"{MARK}\n{_NAMESPACE}", _daemon_set(wish.image, _REMOVE, mounted=False)])


_META = "{name: iarproxy-mirror, namespace: iarproxy-setup}"
_NAMESPACE = """\
apiVersion: v1
kind: Namespace
metadata:
  name: iarproxy-setup
  labels:
    pod-security.kubernetes.io/enforce: privileged # one folder of the node is mounted; see the security context below
"""


def _daemon_set(image: str, script: str, *, mounted: bool) -> str:
    volume = "        - name: wanted\n          configMap: {name: iarproxy-mirror}\n" if mounted else ""
    mount = "            - {name: wanted, mountPath: /wanted, readOnly: true}\n" if mounted else ""
    return f"""\
apiVersion: apps/v1
kind: DaemonSet
metadata: {_META}
spec:
  selector:
    matchLabels: {{app: iarproxy-mirror}}
  updateStrategy:
    rollingUpdate: {{maxUnavailable: "100%"}}
  template:
    metadata:
      labels: {{app: iarproxy-mirror}}
    spec:
      automountServiceAccountToken: false
      enableServiceLinks: false
      terminationGracePeriodSeconds: 1
      nodeSelector: {{kubernetes.io/os: linux}}
      tolerations:
        - operator: Exists
      containers:
        - name: hosts
          image: {json.dumps(image)}
          command: ["/bin/sh", "-c"]
          args:
            - |
{_indented(script, 14)}\
          resources:
            requests: {{cpu: 1m, memory: 8Mi}}
            limits: {{memory: 32Mi}}
          securityContext:
            runAsUser: 0 # the folder is root's
            allowPrivilegeEscalation: false
            readOnlyRootFilesystem: true
            capabilities: {{drop: [ALL]}}
            seccompProfile: {{type: RuntimeDefault}}
          volumeMounts:
            - {{name: certs, mountPath: /certs.d}}
{mount}\
      volumes:
        - name: certs
          hostPath: {{path: {_CERTS}, type: DirectoryOrCreate}}
{volume}"""


def _indented(text: str, width: int) -> str:
    return "".join(f"{' ' * width}{line}\n" if line else "\n" for line in text.splitlines())


def talos(wish: Wish) -> Plan:
    """Documents of Talos' machine configuration."""
    if wish.fall is Fall.DIGESTS:
        raise Refused("Talos' strict form has no exception for pushes, and needs none; leave --push out")
    path = wish.folder / TALOS_FILE
    documents = []
    for each in wish.mirror.registries:
        lines = ["apiVersion: v1alpha1", "kind: RegistryMirrorConfig", f"name: {json.dumps(each)}"]
        lines += ["endpoints:", f"  - url: {json.dumps(wish.mirror.url)}"]
        documents.append("\n".join([*lines, *(["skipFallback: true"] if wish.strict else [])]) + "\n")
    notes = [
        "for Talos with RegistryMirrorConfig documents; older ones have the same under machine.registries.mirrors",
        "not tested with the real program",
    ]
    if wish.mirror.ca and not wish.mirror.plain:
        notes.append("give the certificate's authority in a TrustedRootsConfig document")
    text = f"{MARK}\n" + "---\n".join(documents)
    return Plan((Whole(path, text.encode()),), (f"talosctl patch machineconfig --patch @{path}",), tuple(notes))


def inspect(wish: Wish) -> list[Finding]:
    """Nodes are not read from here."""
    text = "what the nodes hold is not read from here; on a node: iarproxy setup containerd --check --url ..."
    return [Finding(Weight.NOTE, str(wish.folder), text)]
