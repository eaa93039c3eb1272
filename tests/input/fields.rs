//! Each field of each request in turn gets each bad value; all others are those of a good request.

use crate::{
    raw::{Raw, methods},
    support::{
        MIB,
        co::{Co, Spec, csi},
        driver::Driver,
        host,
        places::Places,
        pool::{Kind as PoolKind, Pool},
        unique,
    },
};
use prost_reflect::{
    DynamicMessage, FieldDescriptor, Kind, MapKey, MethodDescriptor, ReflectMessage, Value, prost::Message,
};
use std::{
    collections::{BTreeSet, HashMap},
    fs,
    path::Path,
};
use tonic::{Code, Status};

/// Messages go into a header, for which common clients take 8 to 16 KiB at most.
const LONGEST_MESSAGE: usize = 4096;

/// Texts that have hurt other drivers.
fn texts() -> Vec<String> {
    let mut texts: Vec<_> = [
        "",
        ".",
        "..",
        "../../../../etc",
        "/../../etc/passwd",
        "a/../../b",
        "a/b",
        "\\..\\x",
        "\0",
        "a\0b",
        "\n",
        "a\nb",
        "\r\nINFO forged=line",
        "\x1b[2Jx",
        "dev",
        "suid,dev",
        "context=system_u:object_r:etc_t:s0",
        "loop",
        ",",
        "=",
        "-o",
        "--help",
        "-rf /",
        "$(touch x)",
        "`x`",
        "%s%n",
        "'; DROP TABLE volumes; --",
        "\u{202e}txt",
        "ü€𝄞",
        "local-",
        "local-snap-",
        "local-00000000-0000-0000-0000-000000000000.node-1",
        "local-00000000-0000-0000-0000-000000000000.../../x",
        "after-",
        "nfs-server#share#dir",
        "18446744073709551616",
        "remount",
        "bind",
        "data=ordered,errors=panic",
        "norecovery",
        "x-mount.mkdir",
    ]
    .map(str::to_owned)
    .into();
    texts.push("n".repeat(129));
    texts.push(format!("/{}", "p".repeat(4095)));
    texts.push("/".repeat(4096));
    texts.push("/ü".repeat(1360));
    texts.push(format!("/{}", "é\n".repeat(1300)));
    texts.push("x".repeat(100_000));
    texts
}

const NUMBERS: [i64; 12] = [
    i64::MIN,
    i32::MIN as i64,
    -1,
    0,
    1,
    4095,
    4097,
    i32::MAX as i64,
    1 << 40,
    1 << 62,
    i64::MAX - 4095,
    i64::MAX,
];

/// A volume in use and one at rest, a snapshot, and the machine's state around them.
struct Stand {
    co: Co,
    _driver: Driver,
    raw: Raw,
    places: Places,
    pool: Pool,
    resting: String,
    used: String,
    snapshot: String,
}

impl Stand {
    fn new() -> Self {
        let pool = Pool::new(PoolKind::Xfs, 8 << 30);
        let driver = Driver::start(&[("default", pool.path())], &[]);
        let (mut co, places) = (driver.co(), Places::new());
        let [resting, used] = [(); 2].map(|()| co.create(&unique("v"), &spec()).unwrap().volume_id);
        let snapshot = co.snapshot(&unique("s"), &resting).unwrap().snapshot_id;
        let (staging, target) = (places.staging("used"), places.target("used"));
        co.stage(&used, &staging, &spec()).unwrap();
        co.publish(&used, &staging, &target, &spec(), false).unwrap();
        fs::write(target.join("file"), "content").unwrap();
        Self { raw: Raw::new(&driver), co, _driver: driver, places, pool, resting, used, snapshot }
    }

    /// A request that would be answered with OK.
    fn good(&self, method: &MethodDescriptor) -> DynamicMessage {
        let (used, resting) = (self.used.clone(), self.resting.clone());
        let staging = self.places.path().join("staging/used").to_str().unwrap().to_owned();
        let target = self.places.path().join("pods/used").to_str().unwrap().to_owned();
        let absent = "local-00000000-0000-0000-0000-000000000001.node-1".to_owned();
        let capability = Some(spec().capability());
        let range = Some(csi::CapacityRange { required_bytes: 8 << 20, limit_bytes: 0 });
        let name = "the-new-one".to_owned();
        macro_rules! request {
            ($type:ident { $($field:ident: $value:expr),* $(,)? }) => {
                {
                    let mut request = csi::$type::default();
                    $(request.$field = $value;)*
                    request.encode_to_vec()
                }
            };
        }
        let bytes = match method.name() {
            "CreateVolume" => spec().request(&name).encode_to_vec(),
            // What is deleted or taken away is not what other requests need.
            "DeleteVolume" => request!(DeleteVolumeRequest { volume_id: absent }),
            "DeleteSnapshot" => {
                request!(DeleteSnapshotRequest { snapshot_id: absent.replacen("local-", "local-snap-", 1) })
            }
            "CreateSnapshot" => request!(CreateSnapshotRequest { source_volume_id: resting, name: name }),
            "GetSnapshot" => request!(GetSnapshotRequest { snapshot_id: self.snapshot.clone() }),
            "ValidateVolumeCapabilities" => request!(ValidateVolumeCapabilitiesRequest {
                volume_id: resting,
                volume_capabilities: capability.into_iter().collect(),
            }),
            "ControllerGetVolume" => request!(ControllerGetVolumeRequest { volume_id: resting }),
            "ControllerGetVolumeHealth" => request!(ControllerGetVolumeHealthRequest { volume_id: resting }),
            "ControllerExpandVolume" => request!(ControllerExpandVolumeRequest {
                volume_id: resting,
                capacity_range: range,
                volume_capability: capability,
            }),
            "NodeStageVolume" => request!(NodeStageVolumeRequest {
                volume_id: used,
                staging_target_path: staging,
                volume_capability: capability,
            }),
            "NodePublishVolume" => request!(NodePublishVolumeRequest {
                volume_id: used,
                staging_target_path: staging,
                target_path: target,
                volume_capability: capability,
            }),
            "NodeUnstageVolume" => {
                let elsewhere = format!("{target}-no-mount");
                request!(NodeUnstageVolumeRequest { volume_id: absent, staging_target_path: elsewhere })
            }
            "NodeUnpublishVolume" => {
                let elsewhere = format!("{target}-no-mount");
                request!(NodeUnpublishVolumeRequest { volume_id: absent, target_path: elsewhere })
            }
            "NodeGetVolumeStats" => {
                request!(NodeGetVolumeStatsRequest { volume_id: used, volume_path: target })
            }
            "NodeExpandVolume" => request!(NodeExpandVolumeRequest {
                volume_id: used,
                volume_path: target,
                capacity_range: range,
                volume_capability: capability,
            }),
            "NodeGetVolumeHealth" => request!(NodeGetVolumeHealthRequest {
                volume_id: used,
                volume_publish_path: target,
                staging_target_path: staging,
            }),
            // The others have nothing that they need.
            _ => Vec::new(),
        };
        DynamicMessage::decode(method.input(), bytes.as_slice()).unwrap()
    }

    /// Takes away what a request made that was not bad enough.
    fn tidy(&mut self, method: &MethodDescriptor, answer: &DynamicMessage) {
        match method.name() {
            "CreateVolume" => self.co.delete(&text_in(answer, "volume", "volume_id")).unwrap(),
            "CreateSnapshot" => self.co.delete_snapshot(&text_in(answer, "snapshot", "snapshot_id")).unwrap(),
            _ => {}
        }
    }

    /// Mounts of the machine, and what lies in and beside the pool; volumes come and go. Other tests
    /// mount in directories of their own.
    fn surroundings(&self) -> BTreeSet<String> {
        let parent = self.pool.path().parent().unwrap();
        let mut found = BTreeSet::new();
        for directory in [parent, self.pool.path(), self.places.path(), &self.places.path().join("pods")] {
            found.extend(
                fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path().display().to_string()),
            );
        }
        found.extend(fs::read_dir("/").unwrap().map(|entry| entry.unwrap().path().display().to_string()));
        let foreign =
            |path: &Path| path.starts_with(std::env::temp_dir()) && !path.starts_with(self.places.path());
        let mounts = host::mounts().into_iter().filter(|mount| !foreign(&mount.point));
        found.extend(mounts.map(|mount| format!("{} {}", mount.point.display(), mount.root.display())));
        found.extend(host::loops_below(self.pool.path()).iter().map(|each| format!("{each:?}")));
        found
    }
}

fn spec() -> Spec {
    Spec::new().thin().size(8 * MIB)
}

fn text_in(answer: &DynamicMessage, field: &str, inner: &str) -> String {
    let value = answer.get_field_by_name(field).unwrap();
    let id = value.as_message().unwrap().get_field_by_name(inner).unwrap();
    id.as_str().unwrap().to_owned()
}

/// Copies of a message with one of its texts, or one of its numbers, replaced; fields that are not set are,
/// too. `what` names the field.
fn replace(
    message: &DynamicMessage,
    with: &Bad,
    what: &str,
    depth: usize,
    out: &mut Vec<(String, DynamicMessage)>,
) {
    for field in message.descriptor().fields() {
        let name = format!("{what}.{}", field.name());
        let mut put = |value: Value| {
            let mut copy = message.clone();
            copy.set_field(&field, value);
            out.push((name.clone(), copy));
        };
        match (with, field.kind()) {
            (Bad::Text(text), Kind::Message(_)) if field.is_map() => {
                maps(message, &field, text).into_iter().for_each(put)
            }
            (Bad::Text(text), Kind::String) if field.is_list() => {
                put(Value::List(vec![Value::String(text.clone())]))
            }
            (Bad::Text(text), Kind::String) => put(Value::String(text.clone())),
            (Bad::Number(number), Kind::Int64) => put(Value::I64(*number)),
            (Bad::Number(number), Kind::Int32) => {
                i32::try_from(*number).into_iter().for_each(|n| put(Value::I32(n)))
            }
            (Bad::Number(number), Kind::Enum(_)) => {
                i32::try_from(*number).into_iter().for_each(|n| put(Value::EnumNumber(n)));
            }
            (_, Kind::Message(inner)) if !field.is_map() && depth < 6 => {
                let current = message.get_field(&field);
                let child = match (&*current, field.is_list()) {
                    (Value::List(list), _) if !list.is_empty() => list[0].as_message().unwrap().clone(),
                    (Value::Message(child), false) => child.clone(),
                    _ => DynamicMessage::new(inner),
                };
                let mut children = Vec::new();
                replace(&child, with, &name, depth + 1, &mut children);
                for (name, child) in children {
                    let mut copy = message.clone();
                    let value = Value::Message(child);
                    copy.set_field(&field, if field.is_list() { Value::List(vec![value]) } else { value });
                    out.push((name, copy));
                }
            }
            _ => {}
        }
    }
}

enum Bad {
    Text(String),
    Number(i64),
}

/// A text as a new key, and as the value of each key that is there.
fn maps(message: &DynamicMessage, field: &FieldDescriptor, text: &str) -> Vec<Value> {
    let current = message.get_field(field);
    let known: HashMap<MapKey, Value> = current.as_map().cloned().unwrap_or_default();
    let mut maps = Vec::new();
    let keys = known
        .keys()
        .cloned()
        .chain([MapKey::String("csi.storage.k8s.io/x".into()), MapKey::String("pool".into())]);
    for key in keys {
        let mut map = known.clone();
        map.insert(key, Value::String(text.to_owned()));
        maps.push(Value::Map(map));
    }
    let mut map = known;
    map.insert(MapKey::String(text.to_owned()), Value::String("1".into()));
    maps.push(Value::Map(map));
    maps
}

fn judge(method: &str, field: &str, bad: &str, answer: &Result<DynamicMessage, Status>) {
    let bad: String = bad.chars().take(60).collect();
    let Err(status) = answer else { return };
    let allowed = [
        Code::InvalidArgument,
        Code::NotFound,
        Code::AlreadyExists,
        Code::FailedPrecondition,
        Code::OutOfRange,
        Code::ResourceExhausted,
        Code::Aborted,
        Code::Unimplemented,
    ];
    assert!(allowed.contains(&status.code()), "{method} {field} {bad:?}: {status:?}");
    let message = status.message();
    assert!(
        message.len() <= LONGEST_MESSAGE,
        "{method} {field} {bad:?}: a message of {} bytes",
        message.len()
    );
    let control = message.chars().find(|letter| letter.is_control());
    assert!(control.is_none(), "{method} {field} {bad:?}: {control:?} goes into the message {message:?}");
}

/// How many fields there were, and how many requests.
fn all(values: &[Bad]) -> (usize, usize) {
    let mut stand = Stand::new();
    let before = stand.surroundings();
    let (mut cases, mut fields) = (0, BTreeSet::new());
    for method in methods() {
        let good = stand.good(&method);
        if !method.name().contains("ublish") && !method.name().contains("Modify") {
            let answer = stand.raw.send_message(&method, &good);
            let answer = answer.unwrap_or_else(|status| panic!("{} is not good: {status:?}", method.name()));
            stand.tidy(&method, &answer);
        }
        for value in values {
            let mut requests = Vec::new();
            replace(&good, value, "", 0, &mut requests);
            for (field, request) in requests {
                let answer = stand.raw.send_message(&method, &request);
                let bad = match value {
                    Bad::Text(text) => text.clone(),
                    Bad::Number(number) => number.to_string(),
                };
                judge(method.name(), &field, &bad, &answer);
                if let Ok(answer) = answer {
                    stand.tidy(&method, &answer);
                }
                fields.insert(format!("{}{field}", method.name()));
                cases += 1;
            }
        }
        let after = stand.surroundings();
        let changed: Vec<_> = before.symmetric_difference(&after).collect();
        assert!(changed.is_empty(), "{} changed something else: {changed:?}", method.name());
    }
    println!("{cases} requests, {} fields", fields.len());
    // Everything is as it was, and works.
    let (staging, target) = (stand.places.staging("used"), stand.places.target("used"));
    assert_eq!(fs::read_to_string(target.join("file")).unwrap(), "content");
    let mut volumes = stand.co.volumes().unwrap();
    volumes.sort();
    let mut expected = vec![stand.resting.clone(), stand.used.clone()];
    expected.sort();
    assert_eq!(volumes, expected);
    stand.co.unpublish(&stand.used, &target).unwrap();
    stand.co.unstage(&stand.used, &staging).unwrap();
    stand.co.delete(&stand.used).unwrap();
    (fields.len(), cases)
}

#[test]
fn every_text_field() {
    let (fields, requests) = all(&texts().into_iter().map(Bad::Text).collect::<Vec<_>>());
    assert!(fields > 80 && requests > 4_000, "{fields} {requests}");
}

#[test]
fn every_number_and_enumeration() {
    let (fields, requests) = all(&NUMBERS.map(Bad::Number));
    assert!(fields > 15 && requests > 140, "{fields} {requests}");
}
