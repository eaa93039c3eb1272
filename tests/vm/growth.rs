//! Growth of a mounted ext4: the kernel asks for CAP_SYS_RESOURCE, which the host's root may not have.

use crate::{
    guest::required,
    scene::Scene,
    support::{
        MIB,
        co::Spec,
        data::{bytes, write_durably},
        pool::Kind,
    },
};
use std::fs;

/// ControllerExpandVolume and NodeExpandVolume under a published volume that holds data and an open file.
#[test]
fn an_ext4_grows_while_it_is_published() {
    required();
    let mut scene = Scene::new(Kind::Xfs, 1024 * MIB);
    let volume = scene.running("pod", &Spec::image("ext4").size(64 * MIB));
    let content = bytes(1, usize::try_from(32 * MIB).unwrap());
    write_durably(&volume.target.join("f"), &content);
    let open = fs::File::create(volume.target.join("open")).unwrap();
    let before = rustix::fs::statvfs(&volume.target).unwrap();

    let grown = scene.co.expand(&volume.id, 256 * MIB).unwrap();
    assert_eq!(grown.capacity_bytes, (256 * MIB).cast_signed());
    assert!(grown.node_expansion_required);
    for _ in 0..2 {
        let answer = scene.co.expand_node(&volume.id, &volume.target, 256 * MIB).unwrap();
        assert_eq!(answer.capacity_bytes, (256 * MIB).cast_signed());
    }

    let after = rustix::fs::statvfs(&volume.target).unwrap();
    let added = (after.f_blocks - before.f_blocks) * after.f_frsize;
    assert!(added > 180 * MIB, "{added} bytes more after growing by {}", 192 * MIB);
    // There is room for what did not fit before, and what was there is as it was.
    write_durably(&volume.target.join("g"), &bytes(2, usize::try_from(128 * MIB).unwrap()));
    open.sync_all().unwrap();
    assert_eq!(fs::read(volume.target.join("f")).unwrap(), content);
    let total = scene.co.stats(&volume.id, &volume.target).unwrap().usage[0].total;
    assert_eq!(total.cast_unsigned(), after.f_blocks * after.f_frsize);
    drop(open);
    scene.stop(&volume);
    scene.start(&volume);
    assert_eq!(fs::read(volume.target.join("f")).unwrap(), content);
    scene.stop(&volume);
    scene.co.delete(&volume.id).unwrap();
}
