//! The same name again: which requests mean the same volume.

use crate::{
    stand::{GIB, Stand, code, signed},
    support::{
        MIB,
        co::{Mode, Spec, csi},
        pool::Kind,
        unique,
    },
};
use tonic::Code;

/// Everything about a volume but its name.
type Edit = Box<dyn Fn(&mut csi::CreateVolumeRequest)>;

fn parameter(key: &'static str, value: &'static str) -> Edit {
    Box::new(move |request| drop(request.parameters.insert(key.into(), value.into())))
}

fn topology(requisite: &'static [&'static str], preferred: &'static [&'static str]) -> Edit {
    let list = |nodes: &[&str]| {
        let segment = |node: &&str| [("wharf.csi.dev/node".to_owned(), (*node).to_owned())].into();
        nodes.iter().map(|node| csi::Topology { segments: segment(node) }).collect()
    };
    Box::new(move |request| {
        request.accessibility_requirements =
            Some(csi::TopologyRequirement { requisite: list(requisite), preferred: list(preferred) });
    })
}

fn range(required: i64, limit: i64) -> Edit {
    Box::new(move |request| {
        request.capacity_range = Some(csi::CapacityRange { required_bytes: required, limit_bytes: limit });
    })
}

fn capability(spec: Spec) -> Edit {
    Box::new(move |request| request.volume_capabilities = vec![spec.capability()])
}

#[test]
fn the_same_name_is_the_same_volume_unless_it_cannot_be() {
    let mut stand = Stand::new(&[("default", Kind::Xfs), ("other", Kind::Xfs)], 4 * GIB);
    let spec = Spec::new().thin().size(16 * MIB);
    let size = signed(16 * MIB);
    let source = stand.create(&spec).volume_id;
    let snapshot = stand.snapshot(&source).snapshot_id;
    let same: Vec<Edit> = vec![
        Box::new(|_| ()),
        topology(&["node-1"], &["node-1"]),
        topology(&["node-2", "node-1"], &["node-2"]),
        topology(&[], &["node-1"]),
        capability(Spec::new().flag("noatime").flag("discard")),
        capability(Spec::image("ext4")),
        capability(Spec::new().mode(Mode::SingleNodeReaderOnly)),
        capability(Spec::new().mode(Mode::MultiNodeReaderOnly)),
        Box::new(|request| drop(request.secrets.insert("a".into(), "b".into()))),
        parameter("csi.storage.k8s.io/pv/name", "pv"),
        parameter("csi.storage.k8s.io/fstype", "ext4"),
        parameter("csi.storage.k8s.io/fstype", ""),
        parameter("storage.kubernetes.io/csiProvisionerIdentity", "1"),
        parameter("Pool", "default"),
        parameter("layout", "image"),
        range(0, 0),
        range(1, 0),
        range(size, size),
        range(size - 4095, 0),
        range(0, size),
        Box::new(|request| request.capacity_range = None),
    ];
    let other: Vec<Edit> = vec![
        range(size + 1, 0),
        range(0, size - 1),
        range(1, size - 1),
        topology(&["node-2"], &["node-2"]),
        capability(Spec::image("xfs")),
        capability(Spec::block()),
        Box::new(|request| drop(request.parameters.remove("provisioning"))),
        Box::new(|request| {
            request.parameters = [("layout", "directory"), ("limit", "advisory")]
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into();
        }),
        parameter("pool", "other"),
        parameter("uid", "0"),
        parameter("mode", "0755"),
        from(spec.clone().from_snapshot(&snapshot)),
        from(spec.clone().from_volume(&source)),
    ];
    let mut cases = 0;
    let kept = [spec.clone(), spec.clone().from_snapshot(&snapshot)];
    for kept in &kept {
        let name = unique("v");
        let first = stand.co.create(&name, kept).unwrap();
        let ask = |stand: &mut Stand, edit: &Edit| {
            let mut request = kept.request(&name);
            edit(&mut request);
            stand.co.call(|mut client| async move { client.controller.create_volume(request).await })
        };
        for (number, edit) in same.iter().enumerate() {
            let again = ask(&mut stand, edit).unwrap_or_else(|status| panic!("same {number}: {status:?}"));
            assert!(again.volume.unwrap() == first, "same {number}");
            cases += 1;
        }
        for (number, edit) in other.iter().enumerate() {
            // The last but one is what the second volume is made from.
            let expected = if kept.source.is_some() && number == other.len() - 2 {
                Code::Ok
            } else {
                Code::AlreadyExists
            };
            assert_eq!(code(ask(&mut stand, edit)), expected, "other {number}");
            cases += 1;
        }
    }
    assert_eq!(code(stand.co.create(&unique("v"), &spec)), Code::Ok);
    println!("{cases} cases");
}

fn from(spec: Spec) -> Edit {
    Box::new(move |request| request.volume_content_source = spec.request("n").volume_content_source)
}
