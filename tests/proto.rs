//! Compares the files of `proto` with the descriptors that their owners publish, fact by fact.
//!
//! The other side comes from Go modules, the CSI specification's and the kubelet's (`tests/spec-descriptor`, pinned by
//! its `go.sum`), so this needs Go; a machine without it fails here instead of skipping.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

use prost_reflect::{
    DescriptorPool, DynamicMessage, EnumDescriptor, FieldDescriptor, FileDescriptor, MessageDescriptor,
    ServiceDescriptor,
    prost::Message,
    prost_types::{
        DescriptorProto, FileDescriptorProto, FileDescriptorSet,
        field_descriptor_proto::{Label, Type},
    },
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
    path::Path,
    process::Command,
    sync::LazyLock,
};

/// What build.rs compiled the crate's types from.
const OURS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/protocols.bin"));

/// Their packages.
const CSI: &str = "csi.v1";
const REGISTRATION: &str = "pluginregistration";

/// What the owners publish.
static THEIRS: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/spec-descriptor");
    let output = Command::new("go")
        .args(["run", "-mod=readonly", "."])
        .current_dir(&program)
        .output()
        .expect("go could not be started: `scripts/setup test` says which version is needed");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "the owners' descriptors could not be had: {errors}");
    output.stdout
});

#[test]
fn every_fact_of_the_specification_is_ours() {
    let ours = facts(&file(OURS, CSI));
    let theirs = facts(&file(&THEIRS, CSI));
    assert!(theirs.len() > 1_000, "only {} facts were read from the specification", theirs.len());
    let differences = differences(&ours, &theirs);
    assert!(differences.is_empty(), "proto/csi.proto differs:\n{}", differences.join("\n"));
}

#[test]
fn every_fact_of_the_kubelets_registration_is_ours() {
    let ours = facts(&file(OURS, REGISTRATION));
    let theirs = facts(&file(&THEIRS, REGISTRATION));
    assert!(theirs.len() > 50, "only {} facts were read from the kubelet's module", theirs.len());
    let differences = differences(&ours, &theirs);
    assert!(differences.is_empty(), "proto/pluginregistration.proto differs:\n{}", differences.join("\n"));
}

#[test]
fn the_alpha_and_secret_marks_are_among_the_facts() {
    let facts = facts(&file(OURS, CSI));
    let marked = |mark: &str| facts.iter().filter(|(path, _)| path.ends_with(mark)).count();
    assert_eq!(marked("option csi.v1.csi_secret"), 22);
    assert_eq!(marked("option csi.v1.alpha_method"), 6);
    assert_eq!(marked("option csi.v1.alpha_service"), 1);
}

type Change = fn(&mut FileDescriptorProto);

#[test]
fn the_comparison_notices_each_kind_of_change() {
    let changes: [(&str, Change); 8] = [
        ("a field's number", |file| message(file, "ProbeResponse").field[0].number = Some(7)),
        ("a field's name", |file| message(file, "ProbeResponse").field[0].name = Some("up".to_owned())),
        ("a field's type", |file| {
            message(file, "CapacityRange").field[0].set_type(Type::Uint64);
        }),
        ("a field's label", |file| {
            message(file, "Volume").field[1].set_label(Label::Repeated);
        }),
        ("an option", |file| {
            let target = message(file, "DeleteVolumeRequest");
            target.field.iter_mut().find(|f| f.name() == "secrets").unwrap().options = None;
        }),
        ("a reserved range", |file| message(file, "NodeGetVolumeStatsResponse").reserved_range.clear()),
        ("an RPC", |file| {
            file.service[0].method.pop();
        }),
        ("a message", |file| {
            let name = Some("Extra".to_owned());
            file.message_type.push(DescriptorProto { name, ..DescriptorProto::default() });
        }),
    ];
    for (what, change) in changes {
        let mut set = FileDescriptorSet::decode(OURS).unwrap();
        let csi = set.file.iter_mut().find(|f| f.name() == "csi.proto").unwrap();
        change(csi);
        let changed = facts(&file(&set.encode_to_vec(), CSI));
        assert!(!differences(&changed, &facts(&file(OURS, CSI))).is_empty(), "{what} may change unnoticed");
    }
}

fn message<'a>(file: &'a mut FileDescriptorProto, name: &str) -> &'a mut DescriptorProto {
    file.message_type.iter_mut().find(|m| m.name() == name).unwrap()
}

/// By its package: the owner of a file names it by a path of his own.
fn file(set: &[u8], package: &str) -> FileDescriptor {
    let pool = DescriptorPool::decode(set).unwrap();
    pool.files().find(|file| file.package_name() == package).expect("the set has no such package")
}

/// One line for each path at which two descriptors disagree.
fn differences(ours: &BTreeMap<String, String>, theirs: &BTreeMap<String, String>) -> Vec<String> {
    let paths: BTreeSet<_> = ours.keys().chain(theirs.keys()).collect();
    let say = |fact: Option<&String>| fact.map_or("nothing".to_owned(), |f| format!("`{f}`"));
    paths
        .into_iter()
        .filter(|path| ours.get(*path) != theirs.get(*path))
        .map(|path| format!("{path}: ours {}, theirs {}", say(ours.get(path)), say(theirs.get(path))))
        .collect()
}

/// Everything a descriptor states, by path. The order of declarations is no fact: it changes nothing.
fn facts(file: &FileDescriptor) -> BTreeMap<String, String> {
    let mut facts = Facts(BTreeMap::new());
    facts.add("package", file.package_name());
    facts.add("syntax", format!("{:?}", file.syntax()));
    facts.options("file", &file.options());
    for import in file.dependencies() {
        facts.add(format!("import {}", import.name()), "");
    }
    for extension in file.extensions() {
        let path = extension.full_name().to_owned();
        let extended = extension.containing_message();
        facts.add(format!("{path} extends"), extended.full_name());
        facts.add(format!("{path} number"), extension.number());
        facts.add(format!("{path} type"), format!("{:?} {:?}", extension.cardinality(), extension.kind()));
    }
    file.messages().for_each(|message| facts.message(&message));
    file.enums().for_each(|enumeration| facts.enumeration(&enumeration));
    file.services().for_each(|service| facts.service(&service));
    facts.0
}

struct Facts(BTreeMap<String, String>);

impl Facts {
    fn add(&mut self, path: impl Into<String>, fact: impl Display) {
        let path = path.into();
        let before = self.0.insert(path.clone(), format!("{fact}"));
        assert!(before.is_none(), "two facts at {path}");
    }

    fn options(&mut self, path: &str, options: &DynamicMessage) {
        for (field, value) in options.fields() {
            self.add(format!("{path} option {}", field.name()), format!("{value:?}"));
        }
        for (extension, value) in options.extensions() {
            self.add(format!("{path} option {}", extension.full_name()), format!("{value:?}"));
        }
        assert_eq!(options.unknown_fields().count(), 0, "{path} has options that the pool does not know");
    }

    fn message(&mut self, message: &MessageDescriptor) {
        let path = message.full_name();
        self.add(format!("{path} is"), if message.is_map_entry() { "map entry" } else { "message" });
        self.options(path, &message.options());
        for range in message.reserved_ranges() {
            self.add(format!("{path} reserves {range:?}"), "");
        }
        for name in message.reserved_names() {
            self.add(format!("{path} reserves {name}"), "");
        }
        message.fields().for_each(|field| self.field(&field));
        for oneof in message.oneofs() {
            self.add(format!("{} is", oneof.full_name()), "oneof");
            self.options(oneof.full_name(), &oneof.options());
        }
        message.child_messages().for_each(|child| self.message(&child));
        message.child_enums().for_each(|child| self.enumeration(&child));
    }

    fn field(&mut self, field: &FieldDescriptor) {
        // Fields and oneofs share a namespace with nested types only by convention: hence the word.
        let path = format!("field {}", field.full_name());
        self.add(format!("{path} number"), field.number());
        self.add(format!("{path} type"), format!("{:?}", field.kind()));
        self.add(format!("{path} label"), format!("{:?}", field.cardinality()));
        self.add(format!("{path} JSON"), field.json_name());
        self.add(format!("{path} has presence"), field.supports_presence());
        self.add(format!("{path} is packed"), field.is_packed());
        if let Some(oneof) = field.containing_oneof() {
            self.add(format!("{path} oneof"), oneof.name());
        }
        self.options(&path, &field.options());
    }

    fn enumeration(&mut self, enumeration: &EnumDescriptor) {
        let path = enumeration.full_name();
        self.add(format!("{path} is"), "enum");
        self.options(path, &enumeration.options());
        for range in enumeration.reserved_ranges() {
            self.add(format!("{path} reserves {range:?}"), "");
        }
        for name in enumeration.reserved_names() {
            self.add(format!("{path} reserves {name}"), "");
        }
        for value in enumeration.values() {
            let path = format!("{path} value {}", value.name());
            self.add(format!("{path} number"), value.number());
            self.options(&path, &value.options());
        }
    }

    fn service(&mut self, service: &ServiceDescriptor) {
        self.add(format!("{} is", service.full_name()), "service");
        self.options(service.full_name(), &service.options());
        for method in service.methods() {
            let path = format!("rpc {}", method.full_name());
            self.add(format!("{path} takes"), method.input().full_name());
            self.add(format!("{path} returns"), method.output().full_name());
            self.add(format!("{path} streams requests"), method.is_client_streaming());
            self.add(format!("{path} streams responses"), method.is_server_streaming());
            self.options(&path, &method.options());
        }
    }
}
