# From a list of PersistentVolumes and PersistentVolumeClaims: what is to be created in place of which, and what
# cannot be moved, with the reason. For scripts/migrate-pv.

# The options that wharf knows (src/volume/nfs/options/rules.rs; tests/migrate.rs compares).
def known_options: [
    "vers", "nfsvers", "v4.2", "v4.1", "v4.0", "v4", "v3", "minorversion", "nolock", "lock", "local_lock", "proto",
    "tcp", "rdma", "port", "mountproto", "mountport", "mountvers", "sec", "xprtsec", "ro", "rw", "noexec", "exec",
    "suid", "nosuid", "nodev", "noatime", "atime", "relatime", "norelatime", "strictatime", "nostrictatime",
    "diratime", "nodiratime", "sync", "async", "hard", "soft", "softerr", "timeo", "retrans", "rsize", "wsize",
    "nconnect", "max_connect", "ac", "noac", "actimeo", "acregmin", "acregmax", "acdirmin", "acdirmax",
    "lookupcache", "cto", "nocto", "acl", "noacl", "rdirplus", "nordirplus", "sharecache", "nosharecache",
    "resvport", "noresvport", "fsc", "nofsc", "write", "fg", "retry", "intr", "nointr", "defaults", "auto", "_netdev"
];

def refuse($why): error({refused: $why});

def trim_slashes: sub("^/+"; "") | sub("/+$"; "");

# One text of options, however they were written down, as single ones.
def options: map(split(",")[] | sub("^ +"; "") | sub(" +$"; "") | select(. != ""));

def is_version_3: any(.[]; IN("vers=3", "nfsvers=3", "v3"));

def check_options:
    (map(split("=")[0]) - known_options) as $unknown
    | if $unknown != [] then
        refuse("wharf does not take the mount options \($unknown | unique | join(", ")): take them out of the PV's mountOptions")
      elif is_version_3 and any(.[]; IN("lock", "local_lock=none", "local_lock=flock", "local_lock=posix")) then
        refuse("version 3 with locks needs rpc.statd, which wharf does not run: take version 4, or nolock")
      elif any(.[]; IN("proto=udp", "proto=udp6")) then
        refuse("wharf does not mount over UDP: take proto=tcp")
      else . end;

# Kubernetes' quantities, as far as they measure storage.
def bytes:
    . as $text
    | (capture("^(?<number>[0-9]+([.][0-9]*)?)(?<unit>[EPTGMk]i?|Ki|m|e[0-9]+)?$") // refuse("\($text) is no size"))
    | (.number | tonumber) * ({
        "Ki": 1024, "Mi": 1048576, "Gi": 1073741824, "Ti": 1099511627776, "Pi": 1125899906842624,
        "Ei": 1152921504606846976, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18, "m": 0.001
      }[.unit // ""] // (if .unit then "1\(.unit)" | tonumber else 1 end));

# Annotations that say who did what to the old object.
def own_annotations: (.metadata.annotations // {}) | with_entries(select(
    .key | (startswith("pv.kubernetes.io/") or startswith("volume.beta.kubernetes.io/")
        or IN("kubectl.kubernetes.io/last-applied-configuration", "volume.kubernetes.io/storage-provisioner",
            "volume.kubernetes.io/storage-resizer", "volume.kubernetes.io/selected-node",
            "volume.kubernetes.io/migrated-to")) | not));

def attribute($name): to_entries | map(select(.key | ascii_downcase == $name) | .value) | first // "";

# A volume of a CSI driver: its id and its attributes stay what they are; wharf understands both.
def from_csi:
    (.volumeAttributes // {}) as $attributes
    | ($attributes | attribute("server")) as $server
    | ($attributes | attribute("share")) as $path
    | ($attributes | attribute("subdir") | trim_slashes) as $directory
    | if $server == "" or $path == "" then
        refuse("its volumeAttributes have no server and share, so nobody knows where its data is")
      elif ($directory | split("/") | any(.[]; IN(".", ".."))) then
        refuse("its subDir leads elsewhere by . or ..")
      elif ($directory | ascii_downcase | split("/") | first) == ".wharf" then
        refuse("its subDir is in .wharf, where wharf keeps its records")
      else {
        csi: (. + {driver: $driver, volumeAttributes: ($attributes | del(.["storage.kubernetes.io/csiProvisionerIdentity"]))}),
        source: "\($server):\([$path | sub("/+$"; ""), $directory] | map(select(. != "")) | join("/") | if . == "" then "/" else . end)",
        options: [$attributes | attribute("mountoptions")],
        notes: []
      } end;

# Where a share ends and the volume's directory begins.
def split_path($made):
    .path | sub("/+$"; "") as $path
    | if $share != "" then
        ($share | sub("/+$"; "")) as $base
        | if $path == $base then {share: $path, directory: ""}
          elif $path | startswith($base + "/") then {share: $base, directory: ($path[($base | length) + 1:])}
          else refuse("its path \($path) is not below --share \($share)") end
      elif $made then {share: ($path | sub("/[^/]+$"; "")), directory: ($path | sub("^.*/"; ""))}
      else {share: $path, directory: ""} end
    | .share |= (if . == "" then "/" else . end);

# A volume that the kubelet mounts by itself gets an id as csi-driver-nfs gives them.
def from_nfs($name; $made):
    if (.server // "") == "" or ((.path // "") | startswith("/") | not) then refuse("it has no server, or no absolute path")
    elif (.path | split("/") | any(.[]; IN(".", ".."))) then refuse("its path leads elsewhere by . or ..")
    else . end
    | . as {server: $server, path: $path, readOnly: $read_only}
    | split_path($made) as {share: $share, directory: $directory}
    | ([$server, $share, $directory] | any(.[]; contains("#"))) as $odd
    | {
        csi: ({
            driver: $driver,
            volumeHandle: (if $odd then $name else [$server, ($share | trim_slashes), ($directory | trim_slashes), $name, $on_delete] | join("#") end),
            volumeAttributes: ({server: $server, share: $share} + (if $directory == "" then {} else {subDir: $directory} end))
          } + (if $read_only then {readOnly: true} else {} end)),
        source: "\($server):\($path)",
        options: [],
        notes: [
            (if $odd then "its path holds a #, which no id can carry: DeleteVolume will leave the directory alone" else empty end),
            (if $directory == "" then "it is the root of its share, so DeleteVolume will refuse to delete it" else empty end)
        ]
      };

# The claim that a PV is bound to; null: none.
def claim_of($pv; $claims):
    $pv.spec.claimRef as $ref
    | if $ref == null then null
      else
        ([$claims[] | select(.metadata.namespace == $ref.namespace and .metadata.name == $ref.name)] | first) as $claim
        | if $claim == null then refuse("its claim \($ref.namespace)/\($ref.name) is not there")
          elif $claim.spec.volumeName != $pv.metadata.name or ($ref.uid != null and $ref.uid != $claim.metadata.uid) then
            refuse("claim \($ref.namespace)/\($ref.name) is not bound to it")
          elif any($claim.metadata.ownerReferences[]?; .kind == "Pod") then
            refuse("its claim belongs to a pod and goes with it: there is nothing to keep")
          elif $claim.metadata.deletionTimestamp then refuse("its claim is being deleted")
          else $claim end
      end;

def larger($one; $other): if ($other | bytes) > ($one | bytes) then $other else $one end;

def move($claims):
    . as $pv
    | if .spec.csi.driver == $driver then refuse("it is a volume of \($driver) already")
      elif .spec.csi != null and .spec.csi.driver != $from then refuse("it is a volume of \(.spec.csi.driver), not of \($from)")
      elif .spec.csi == null and .spec.nfs == null then refuse("it is no NFS volume")
      elif .spec.volumeMode == "Block" then refuse("it is a raw block volume, and NFS has none")
      elif .metadata.deletionTimestamp then refuse("it is being deleted")
      elif (.status.phase // "Available") | IN("Bound", "Available") | not then
        refuse("it is \(.status.phase): its claim is gone, so there is nobody to move it for")
      else . end
    | claim_of($pv; $claims) as $claim
    | ((.metadata.annotations // {})["pv.kubernetes.io/provisioned-by"] != null) as $made
    | (if .spec.csi then .spec.csi | from_csi else .metadata.name as $name | .spec.nfs | from_nfs($name; $made) end) as $new
    | ((.spec.mountOptions // []) | options) as $options
    | (($options + ($new.options | options)) | check_options)
    | (if $class != "" then $class else $pv.spec.storageClassName // "" end) as $class
    | ($pv.spec.capacity.storage // "1Gi") as $capacity
    | (if $claim then larger($capacity; $claim.spec.resources.requests.storage // $capacity) else $capacity end) as $size
    | ($pv.metadata.name + $suffix) as $name
    | {
        old: $pv,
        old_claim: $claim,
        claim: (if $claim then "\($claim.metadata.namespace)/\($claim.metadata.name)" else "not claimed" end),
        source: $new.source,
        handle: $new.csi.volumeHandle,
        notes: ($new.notes + [
            (if $size != $capacity then "the claim asks for \($size), more than the old PV's \($capacity): the new one has it" else empty end),
            (if $claim == null then "no claim has it: delete the old PV as soon as the new one is there, or a claim may get either" else empty end),
            (if $reclaim != $pv.spec.persistentVolumeReclaimPolicy then
                "its reclaim policy was \($pv.spec.persistentVolumeReclaimPolicy) and becomes \($reclaim): see --reclaim" else empty end),
            (if $claim.spec.volumeAttributesClassName then "its VolumeAttributesClass means nothing to wharf and is left out" else empty end)
        ]),
        pv: {
            apiVersion: "v1", kind: "PersistentVolume",
            metadata: {
                name: $name,
                labels: $pv.metadata.labels,
                annotations: (($pv | own_annotations) + {"pv.kubernetes.io/provisioned-by": $driver})
            } | del(.labels | nulls),
            spec: ({
                capacity: {storage: $size},
                accessModes: $pv.spec.accessModes,
                volumeMode: ($pv.spec.volumeMode // "Filesystem"),
                persistentVolumeReclaimPolicy: $reclaim,
                storageClassName: $class,
                mountOptions: $options,
                nodeAffinity: $pv.spec.nodeAffinity,
                claimRef: (if $claim then {apiVersion: "v1", kind: "PersistentVolumeClaim"} + ($claim.metadata | {namespace, name}) else null end),
                csi: $new.csi
            } | del(.[] | nulls) | if .mountOptions == [] then del(.mountOptions) else . end)
        },
        pvc: (if $claim then {
            apiVersion: "v1", kind: "PersistentVolumeClaim",
            metadata: ($claim.metadata | {name, namespace, labels, ownerReferences} + {annotations: ($claim | own_annotations)}
                | del(.[] | nulls) | if .annotations == {} then del(.annotations) else . end),
            spec: {
                accessModes: $claim.spec.accessModes,
                volumeMode: ($claim.spec.volumeMode // "Filesystem"),
                resources: {requests: {storage: ($claim.spec.resources.requests.storage // $size)}},
                storageClassName: $class,
                volumeName: $name
            }
        } else null end)
      };

def attempt($claims):
    .metadata.name as $name
    | try {moved: move($claims)} catch (if type == "object" and has("refused") then {refused: {name: $name, why: .refused}} else error end);

if type != "object" then error("no object") else . end
| (if .kind == "List" or .kind == "PersistentVolumeList" then .items else [.] end) as $items
| [$items[] | select(.kind == "PersistentVolume")] as $pvs
| [$items[] | select(.kind == "PersistentVolumeClaim")] as $claims
| (if $names == null
   then [$pvs[] | select(.spec.csi.driver == $from or .spec.nfs != null)]
   else [$names[] as $name | [$pvs[] | select(.metadata.name == $name)] | first // {metadata: {name: $name}, missing: true}] end)
| map(if .missing then {refused: {name: .metadata.name, why: "there is no such PersistentVolume"}} else attempt($claims) end)
| [$pvs[] | select(.spec.csi.driver == $driver) | .spec.csi.volumeHandle] as $taken
| [.[].moved | select(. != null)] as $moves
# The kubelet takes two volumes with one handle for one.
| [$moves[] | .handle as $handle | select(([$moves[] | select(.handle == $handle)] | length) > 1 or ($taken | index([$handle])) != null)
    | .old.metadata.name] as $twice
| {
    moves: [$moves[] | select(.old.metadata.name | IN($twice[]) | not)],
    refused: ([.[].refused | select(. != null)] + [$twice[] | {name: ., why: "another PV has the same volumeHandle: give one of them another, by a PV of its own"}])
  }
