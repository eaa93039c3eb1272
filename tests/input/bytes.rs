//! Requests that are no messages, and messages that nobody would send.

use crate::{
    raw::{Raw, methods},
    support::{
        MIB,
        co::{Spec, csi},
        data,
        driver::Driver,
        pool::{Kind, Pool},
        unique,
    },
};
use prost_reflect::prost::Message;
use std::{io::Write, os::unix::net::UnixStream};
use tonic::Code;

const ROUNDS: u64 = 2_500;

/// Requests to be spoiled. None names a volume that exists together with a path: a spoiled path must not
/// become a place where something is mounted.
fn seeds() -> Vec<Vec<u8>> {
    let spec = Spec::image("ext4").thin().size(8 * MIB).flag("noatime").owner(1, 2, "0770");
    let mut create = spec.request("n");
    create.secrets.insert("a".into(), "b".into());
    create.accessibility_requirements = Some(csi::TopologyRequirement {
        requisite: vec![csi::Topology { segments: [("wharf.csi.dev/node".into(), "node-1".into())].into() }],
        preferred: Vec::new(),
    });
    let absent = "local-00000000-0000-0000-0000-000000000001.node-1".to_owned();
    let stage = csi::NodeStageVolumeRequest {
        volume_id: absent.clone(),
        staging_target_path: "/nowhere/x".into(),
        volume_capability: Some(spec.capability()),
        ..Default::default()
    };
    let publish = csi::NodePublishVolumeRequest {
        volume_id: absent,
        target_path: "/nowhere/y".into(),
        staging_target_path: "/nowhere/x".into(),
        volume_capability: Some(Spec::block().capability()),
        ..Default::default()
    };
    vec![create.encode_to_vec(), stage.encode_to_vec(), publish.encode_to_vec(), Vec::new()]
}

/// Deterministic by its number.
fn spoiled(number: u64, seeds: &[Vec<u8>]) -> Vec<u8> {
    let random = data::bytes(number, 64);
    let at = |index: usize| usize::from(random[index]) << 8 | usize::from(random[index + 1]);
    let mut bytes = seeds[at(0) % seeds.len()].clone();
    match random[2] % 4 {
        0 => bytes = data::bytes(number, at(3) % 300),
        1 => bytes.truncate(at(3) % (bytes.len() + 1)),
        2 => {
            for flip in 0..1 + usize::from(random[5] % 8) {
                if !bytes.is_empty() {
                    let place = at(6 + 2 * flip) % bytes.len();
                    bytes[place] ^= 1 << (random[30 + flip] % 8);
                }
            }
        }
        _ => {
            let other = &seeds[at(8) % seeds.len()];
            let from = at(10) % (other.len() + 1);
            bytes.extend_from_slice(&other[from..]);
        }
    }
    bytes
}

#[test]
fn bytes_that_are_no_requests() {
    let pool = Pool::new(Kind::Xfs, 8 << 30);
    let mut driver = Driver::start(&[("default", pool.path())], &[]);
    let (raw, methods, seeds) = (Raw::new(&driver), methods(), seeds());
    let mut answered = 0;
    for number in 0..ROUNDS {
        let method = &methods[usize::try_from(number).unwrap() % methods.len()];
        // Removing what is at a path needs no volume.
        if method.name().contains("Unpublish") || method.name().contains("Unstage") {
            continue;
        }
        let bytes = spoiled(number, &seeds);
        match raw.send(method, bytes.clone()) {
            Ok(_) => answered += 1,
            Err(status) => {
                let decoding = status.message().contains("decode Protobuf");
                assert!(
                    status.code() != Code::Internal || decoding,
                    "{}: {status:?} {bytes:?}",
                    method.name()
                );
                assert!(
                    !matches!(status.code(), Code::Unknown | Code::DataLoss | Code::Unavailable),
                    "{status:?}"
                );
            }
        }
    }
    assert!(driver.ended().is_none(), "the server is gone");
    println!("{ROUNDS} requests, {answered} answered with OK");
    assert_eq!(driver.log().matches("panicked").count(), 0, "{}", driver.log());
    // A message above any limit, and peers that do not speak the protocol.
    let huge = raw.send(&methods[3], vec![0x0a; 64 << 20]);
    assert!(huge.is_err());
    for garbage in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        &[0; 4096],
    ] {
        let mut stream = UnixStream::connect(driver.socket()).unwrap();
        let _ = stream.write_all(garbage);
    }
    let mut co = driver.co();
    let id = co.create(&unique("v"), &Spec::new().thin().size(8 * MIB)).unwrap().volume_id;
    co.delete(&id).unwrap();
}
