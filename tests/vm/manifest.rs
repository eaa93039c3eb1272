//! The pods of deploy/wharf.yaml, and what the kubelet and containerd make of one of their containers: a directory for
//! each volume, and the configuration that runc gets. Nothing of it is a copy: what the manifest says and this does not
//! know is an error.

use serde_json::{Value, json};
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

const MANIFEST: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/wharf.yaml");
/// What this machine is called as a node.
pub const NODE: &str = "node-1";
/// Where a pod finds its service account.
pub const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// linux/capability.h, by number.
const CAPABILITIES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// A pod whose driver is the container `wharf`.
#[derive(Clone, Debug)]
pub struct Pod {
    /// What runc knows the container by, and the kubelet the pod.
    pub name: String,
    spec: Value,
    container: Value,
}

impl Pod {
    /// As a `Deployment` or `DaemonSet` of the manifest makes it.
    pub fn of(kind: &str, name: &str) -> Self {
        let text = fs::read_to_string(MANIFEST).unwrap();
        let objects: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
        let mut found = objects.iter().filter(|object| object["kind"] == kind);
        let spec = found.next().unwrap()["spec"]["template"]["spec"].clone();
        assert!(found.next().is_none(), "{MANIFEST} has two of kind {kind}");
        assert!(spec["securityContext"].is_null(), "a pod's own security context is not known here");
        let containers = spec["containers"].as_array().unwrap();
        let container = containers.iter().find(|container| container["name"] == "wharf").unwrap().clone();
        Self { name: name.to_owned(), spec, container }
    }

    /// The same with one capability less.
    pub fn without(mut self, capability: &str) -> Self {
        let added = self.container["securityContext"]["capabilities"]["add"].as_array_mut().unwrap();
        let before = added.len();
        added.retain(|name| name != capability);
        assert_eq!(added.len() + 1, before, "{capability}");
        self
    }

    /// Another role in the same container.
    pub fn in_the_role(mut self, arguments: &[&str]) -> Self {
        self.container["args"] = json!(arguments);
        self
    }

    /// A variable that is not the chart's, or has another value.
    pub fn with(mut self, name: &str, value: &str) -> Self {
        let variables = self.container["env"].as_array_mut().unwrap();
        variables.retain(|variable| variable["name"] != name);
        variables.push(json!({"name": name, "value": value}));
        self
    }

    /// Where the driver serves, as the host sees it.
    pub fn socket(&self) -> PathBuf {
        let endpoint = self
            .variables()
            .into_iter()
            .find_map(|v| v.strip_prefix("CSI_ENDPOINT=unix://").map(PathBuf::from));
        let endpoint = endpoint.unwrap();
        let volumes = self.container["volumeMounts"].as_array().unwrap().iter();
        let (mount, below) = volumes
            .filter_map(|mount| Some((mount, endpoint.strip_prefix(text(&mount["mountPath"])).ok()?)))
            .next()
            .unwrap();
        self.place_of(text(&mount["name"])).join(below)
    }

    /// What the kubelet runs in the container to see whether it is alive.
    pub fn liveness(&self) -> Vec<String> {
        let command = self.container["livenessProbe"]["exec"]["command"].as_array().unwrap();
        command.iter().map(|word| text(word).to_owned()).collect()
    }

    /// The capabilities that its first process is to have, as /proc/PID/status shows them.
    pub fn capability_mask(&self) -> u64 {
        let bit = |name: &String| {
            let name = name.strip_prefix("CAP_").unwrap();
            1 << CAPABILITIES.iter().position(|known| *known == name).unwrap()
        };
        self.capabilities().iter().map(bit).fold(0, |mask, bit: u64| mask | bit)
    }

    pub fn added(&self) -> Vec<String> {
        let added = self.container["securityContext"]["capabilities"]["add"].as_array().unwrap();
        added.iter().map(|name| text(name).to_owned()).collect()
    }

    fn is_privileged(&self) -> bool {
        flag(&self.container["securityContext"]["privileged"])
    }

    fn is_on_the_hosts(&self, what: &str) -> bool {
        flag(&self.spec[what])
    }

    /// The directory of the kubelet for this pod.
    pub fn home(&self) -> PathBuf {
        Path::new("/var/lib/kubelet/pods").join(&self.name)
    }

    /// What of the host a volume is.
    fn place_of(&self, volume: &str) -> PathBuf {
        let volumes = self.spec["volumes"].as_array().unwrap();
        let volume = volumes.iter().find(|found| found["name"] == volume).unwrap();
        match (&volume["hostPath"], &volume["emptyDir"]) {
            (Value::Object(host), Value::Null) => text(&host["path"]).into(),
            (Value::Null, Value::Object(_)) => {
                self.home().join("volumes/kubernetes.io~empty-dir").join(text(&volume["name"]))
            }
            _ => panic!("a volume of a kind that is not known here: {volume}"),
        }
    }

    /// Makes what the kubelet makes before a container is started.
    pub fn prepare(&self) {
        for volume in self.spec["volumes"].as_array().unwrap() {
            let place = self.place_of(text(&volume["name"]));
            match volume["hostPath"]["type"].as_str() {
                Some("Directory") => assert!(place.is_dir(), "the host has no {place:?}"),
                Some("DirectoryOrCreate") => fs::create_dir_all(place).unwrap(),
                None if volume["hostPath"].is_null() => {
                    fs::create_dir_all(&place).unwrap();
                    fs::set_permissions(place, fs::Permissions::from_mode(0o777)).unwrap();
                }
                other => panic!("a path of the host of a type that is not known here: {other:?}"),
            }
        }
    }

    /// The configuration for runc; `account` stands in for what the kubelet mounts at [`ACCOUNT`].
    pub fn configuration(&self, account: &Path) -> Value {
        let security = &self.container["securityContext"];
        self.check_that_all_is_known(security);
        let capabilities = self.capabilities();
        let (user, group) = (&security["runAsUser"], &security["runAsGroup"]);
        // The image's entry point, then the manifest's arguments.
        let arguments =
            [json!("/wharf")].into_iter().chain(self.container["args"].as_array().unwrap().clone());
        let mounts = self.mounts(account);
        let propagation = if mounts.iter().any(|mount| has(mount, "rshared")) { "rshared" } else { "rslave" };
        let mut linux = json!({
            "cgroupsPath": format!("/kubepods/{}", self.name),
            "namespaces": self.namespaces(),
            "rootfsPropagation": propagation,
            // runc itself adds null, zero, full, random, urandom and tty to what is allowed.
            "resources": {"devices": [{"allow": self.is_privileged(), "access": "rwm"}]},
        });
        if !self.is_privileged() {
            linux["maskedPaths"] = json!([
                "/proc/acpi",
                "/proc/asound",
                "/proc/kcore",
                "/proc/keys",
                "/proc/latency_stats",
                "/proc/timer_list",
                "/proc/timer_stats",
                "/proc/sched_debug",
                "/sys/firmware",
                "/proc/scsi",
            ]);
            linux["readonlyPaths"] =
                json!(["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]);
        }
        json!({
            "ociVersion": "1.0.2",
            "process": {
                "user": {"uid": user, "gid": group, "additionalGids": [group]},
                "args": arguments.collect::<Vec<_>>(),
                "env": self.variables(),
                "cwd": "/",
                "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
                "noNewPrivileges": security["allowPrivilegeEscalation"] == false,
            },
            "root": {"path": "rootfs", "readonly": flag(&security["readOnlyRootFilesystem"])},
            "mounts": mounts,
            "linux": linux,
        })
    }

    fn check_that_all_is_known(&self, security: &Value) {
        for (key, value) in security.as_object().unwrap() {
            match &**key {
                "privileged"
                | "readOnlyRootFilesystem"
                | "allowPrivilegeEscalation"
                | "capabilities"
                | "runAsUser"
                | "runAsGroup" => {}
                // The guest confines nobody by AppArmor, and only the runtime knows what its default filter is.
                "appArmorProfile" | "seccompProfile" => assert_eq!(value["type"], "Unconfined", "{key}"),
                _ => panic!("a part of the security context that is not known here: {key}"),
            }
        }
        // Other namespaces than the host's would need what a cluster's network plugin does.
        assert!(self.is_on_the_hosts("hostNetwork"));
        let known = ["name", "mountPath", "mountPropagation", "readOnly"];
        for mount in self.container["volumeMounts"].as_array().unwrap() {
            assert!(mount.as_object().unwrap().keys().all(|key| known.contains(&&**key)), "{mount}");
        }
    }

    /// A privileged container has all of them; else what is added to the runtime's own, or to none.
    fn capabilities(&self) -> Vec<String> {
        let full = |name: &str| format!("CAP_{name}");
        if self.is_privileged() {
            return CAPABILITIES.map(full).into();
        }
        let capabilities = &self.container["securityContext"]["capabilities"];
        assert_eq!(capabilities["drop"], json!(["ALL"]), "the runtime's own capabilities are not known here");
        self.added().iter().map(|name| full(name)).collect()
    }

    fn variables(&self) -> Vec<String> {
        let of_the_runtime = ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()];
        let value = |variable: &Value| match (
            variable["value"].as_str(),
            variable["valueFrom"]["fieldRef"]["fieldPath"].as_str(),
        ) {
            (Some(value), None) => value.to_owned(),
            (None, Some("metadata.namespace")) => "wharf".to_owned(),
            (None, Some("metadata.name")) => self.name.clone(),
            (None, Some("spec.nodeName")) => NODE.to_owned(),
            _ => panic!("a variable of a kind that is not known here: {variable}"),
        };
        let of_the_manifest = self.container["env"].as_array().unwrap().iter();
        of_the_runtime
            .into_iter()
            .chain(of_the_manifest.map(|v| format!("{}={}", text(&v["name"]), value(v))))
            .collect()
    }

    fn namespaces(&self) -> Value {
        let mut own = vec!["mount"];
        if !self.is_on_the_hosts("hostPID") {
            own.push("pid");
        }
        if !self.is_on_the_hosts("hostIPC") {
            own.push("ipc");
        }
        if !self.is_privileged() {
            own.push("cgroup");
        }
        own.into_iter().map(|kind| json!({"type": kind})).collect()
    }

    /// Those of every container, but for what a volume stands in place of, and the volumes.
    fn mounts(&self, account: &Path) -> Vec<Value> {
        let mode = if self.is_privileged() { "rw" } else { "ro" };
        let mount = |kind: &str, at: &str, options: &str| {
            let options: Vec<_> = options.split(',').collect();
            json!({"type": kind, "source": kind, "destination": at, "options": options})
        };
        let usual = [
            mount("proc", "/proc", "nosuid,noexec,nodev"),
            mount("tmpfs", "/dev", "nosuid,strictatime,mode=755,size=65536k"),
            mount("devpts", "/dev/pts", "nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5"),
            mount("tmpfs", "/dev/shm", "nosuid,noexec,nodev,mode=1777,size=65536k"),
            mount("mqueue", "/dev/mqueue", "nosuid,noexec,nodev"),
            mount("sysfs", "/sys", &format!("nosuid,noexec,nodev,{mode}")),
            mount("cgroup", "/sys/fs/cgroup", &format!("nosuid,noexec,nodev,relatime,{mode}")),
        ];
        let volumes = self.container["volumeMounts"].as_array().unwrap();
        let is_taken = |at: &Path| {
            let paths = volumes.iter().map(|volume| Path::new(text(&volume["mountPath"])));
            paths.into_iter().any(|path| path == at || (path == Path::new("/dev") && at.starts_with(path)))
        };
        let mut all: Vec<_> =
            usual.into_iter().filter(|mount| !is_taken(Path::new(text(&mount["destination"])))).collect();
        all.extend(volumes.iter().map(|volume| self.volume(volume)));
        all.push(bind(account, ACCOUNT, &["rbind", "rprivate", "ro"]));
        all
    }

    fn volume(&self, volume: &Value) -> Value {
        let propagation = match volume["mountPropagation"].as_str() {
            Some("Bidirectional") => "rshared",
            Some("HostToContainer") => "rslave",
            None | Some("None") => "rprivate",
            other => panic!("a propagation that is not known here: {other:?}"),
        };
        let mode = if flag(&volume["readOnly"]) { "ro" } else { "rw" };
        bind(&self.place_of(text(&volume["name"])), text(&volume["mountPath"]), &["rbind", propagation, mode])
    }
}

fn bind(from: &Path, to: &str, options: &[&str]) -> Value {
    json!({"type": "bind", "source": from, "destination": to, "options": options})
}

fn has(mount: &Value, option: &str) -> bool {
    mount["options"].as_array().unwrap().iter().any(|found| found == option)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text"))
}

fn flag(value: &Value) -> bool {
    value.as_bool().unwrap_or(false)
}
