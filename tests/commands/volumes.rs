//! `wharf volumes`.

use super::{listing, pool, support, wharf};
use serde_json::Value;
use std::{fs, path::Path};
use support::{
    MIB,
    co::Spec,
    driver::Driver,
    places::Places,
    pool::{Kind, Pool},
};

/// CSI allows it in a name; a terminal must not get it.
const ODD_NAME: &str = "pvc\n\u{202e}1";

fn volumes(path: &Path) -> Value {
    let listed = wharf(&["volumes", "--output", "json", "--pool", &pool("p", path)]);
    assert_eq!((listed.code, listed.err.as_str()), (Some(0), ""), "{listed:?}");
    assert!(!listed.out.contains('\u{202e}'), "{listed:?}");
    listed.json()
}

/// The volume or snapshot whose id ends a request.
fn row<'a>(listed: &'a Value, list: &str, id: &str) -> &'a Value {
    let rows = listed[list].as_array().unwrap();
    rows.iter().find(|row| row["id"] == id).unwrap_or_else(|| panic!("no {id}: {listed}"))
}

#[test]
fn everything_beside_a_running_driver_and_after_it() {
    let filesystem = Pool::new(Kind::Xfs, 600 * MIB);
    let places = Places::new();
    let mut driver = Driver::start(&[("p", filesystem.path())], &[]);
    let mut co = driver.co();
    let image = Spec::image("ext4").pool("p").size(64 * MIB);
    let raw = Spec::block().pool("p").thin().size(16 * MIB);
    let directory = Spec::directory("advisory").pool("p").size(8 * MIB);
    let a = co.create(ODD_NAME, &image).unwrap().volume_id;
    let b = co.create("raw", &raw).unwrap().volume_id;
    let c = co.create("directory", &directory).unwrap().volume_id;
    co.stage(&a, &places.staging("a"), &image).unwrap();
    co.publish(&a, &places.staging("a"), &places.target("a"), &image, false).unwrap();
    co.stage(&b, &places.staging("b"), &raw).unwrap();
    co.stage(&c, &places.staging("c"), &directory).unwrap();
    let cut = co.snapshot("cut", &a).unwrap().snapshot_id;
    let restored = co.restore("restored", &image, &cut).unwrap().volume_id;

    let listed = volumes(filesystem.path());
    let row_a = row(&listed, "volumes", &a);
    assert_eq!((row_a["name"].as_str(), row_a["size"].as_u64()), (Some(ODD_NAME), Some(64 * MIB)));
    assert_eq!((row_a["layout"].as_str(), row_a["filesystem"].as_str()), (Some("image"), Some("ext4")));
    assert_eq!((row_a["provisioning"].as_str(), row_a["health"].as_str()), (Some("thick"), Some("healthy")));
    assert!(row_a["loop_device"].is_u64() && row_a["mounts"].as_array().unwrap().len() == 2, "{row_a}");
    // The snapshot shares what it held.
    let (owned, promised) = (row_a["owned"].as_u64().unwrap(), row_a["promised"].as_u64().unwrap());
    assert!(owned < 64 * MIB && owned + promised == 64 * MIB, "{row_a}");
    let row_b = row(&listed, "volumes", &b);
    assert!(row_b["loop_device"].is_u64() && row_b["mounts"].as_array().unwrap().len() == 1, "{row_b}");
    assert_eq!((row_b["provisioning"].as_str(), row_b["promised"].as_u64()), (Some("thin"), Some(16 * MIB)));
    let row_c = row(&listed, "volumes", &c);
    assert_eq!((row_c["limit"].as_str(), row_c["mounts"].as_array().unwrap().len()), (Some("advisory"), 1));
    assert!(row_c["loop_device"].is_null(), "{row_c}");
    let snapshot = row(&listed, "snapshots", &cut);
    assert_eq!((snapshot["size"].as_u64(), snapshot["health"].as_str()), (Some(64 * MIB), Some("healthy")));
    let of_restored = row(&listed, "volumes", &restored)["source"].as_str().unwrap().to_owned();
    assert_eq!(of_restored, format!("snapshot {}", snapshot["uuid"].as_str().unwrap()));
    let figures = &listed["pools"][0];
    assert_eq!((figures["volumes"].as_u64(), figures["snapshots"].as_u64()), (Some(4), Some(1)));
    let sum: u64 =
        listed["volumes"].as_array().unwrap().iter().map(|row| row["promised"].as_u64().unwrap()).sum();
    assert_eq!(figures["promised"].as_u64(), Some(sum));
    let (total, available) = (figures["total"].as_u64().unwrap(), figures["available"].as_u64().unwrap());
    assert!(total > 500 * MIB && available < total, "{figures}");

    let table = wharf(&["volumes", "--pool", &pool("p", filesystem.path())]);
    assert_eq!(table.code, Some(0));
    // A title, four volumes, a snapshot, an empty line, the pool.
    assert_eq!(table.out.lines().count(), 8, "{}", table.out);
    assert!(table.out.contains("pvc\\n\\u{202e}1") && table.out.contains("64.0 MiB"), "{}", table.out);
    assert!(table.out.contains("pool p: 4 volumes, 1 snapshot; "), "{}", table.out);

    for (id, name) in [(&a, "a"), (&b, "b"), (&c, "c")] {
        co.unpublish(id, &places.target(name)).unwrap();
        co.unstage(id, &places.staging(name)).unwrap();
    }
    drop(co);
    driver.terminate();
    let before = listing(filesystem.path());
    let listed = volumes(filesystem.path());
    for row in listed["volumes"].as_array().unwrap() {
        assert!(row["loop_device"].is_null() && row["mounts"].as_array().unwrap().is_empty(), "{row}");
    }
    assert_eq!(listing(filesystem.path()), before, "a look has written");
}

#[test]
fn damage_is_shown_and_hides_nothing() {
    let filesystem = Pool::new(Kind::Ext4, 300 * MIB);
    let mut driver = Driver::start(&[("p", filesystem.path())], &[]);
    let mut co = driver.co();
    let spec = Spec::image("ext4").pool("p").size(16 * MIB);
    let ids = ["torn", "short", "whole"].map(|name| co.create(name, &spec).unwrap().volume_id);
    drop(co);
    driver.terminate();
    let home = |id: &str| {
        let key = id.strip_prefix("local-").unwrap().split('.').next().unwrap();
        filesystem.path().join("volumes").join(key)
    };
    let record = home(&ids[0]).join("record.json");
    let text = fs::read(&record).unwrap();
    fs::write(&record, &text[..text.len() / 2]).unwrap();
    let image = home(&ids[1]).join("data/disk.img");
    fs::File::options().write(true).open(image).unwrap().set_len(MIB).unwrap();

    let listed = wharf(&["volumes", "--output", "json", "--pool", &pool("p", filesystem.path())]);
    assert_eq!(listed.code, Some(0), "{listed:?}");
    let listed = listed.json();
    assert_eq!(listed["volumes"].as_array().unwrap().len(), 3, "{listed}");
    let torn =
        listed["volumes"].as_array().unwrap().iter().find(|row| row["health"] == "inaccessible").unwrap();
    assert!(torn["ailments"][0].as_str().unwrap().contains("record.json"), "{torn}");
    let short = row(&listed, "volumes", &ids[1]);
    assert_eq!(short["health"], "data-loss");
    assert!(short["ailments"][0].as_str().unwrap().contains("ImageTruncated"), "{short}");
    assert_eq!(row(&listed, "volumes", &ids[2])["health"], "healthy");
    let table = wharf(&["volumes", "--pool", &pool("p", filesystem.path())]);
    assert!(table.out.contains("ImageTruncated"), "{table:?}");
}

#[test]
fn a_pool_that_is_none_is_named_and_the_others_are_listed() {
    let good = tempfile::tempdir().unwrap();
    let empty = tempfile::tempdir().unwrap();
    Driver::start(&[("good", good.path())], &[]).terminate();
    let (good, bad) = (pool("good", good.path()), pool("bad", empty.path()));
    let listed = wharf(&["volumes", "--output", "json", "--pool", &good, "--pool", &bad]);
    assert!(listed.sentence().starts_with("pool \"bad\" cannot be listed: "), "{listed:?}");
    let report = listed.json();
    assert_eq!(report["pools"][0]["volumes"].as_u64(), Some(0));
    assert!(report["pools"][1]["error"].as_str().unwrap().contains("no store"), "{report}");
    assert_eq!(fs::read_dir(empty.path()).unwrap().count(), 0);
    let table = wharf(&["volumes", "--pool", &good]);
    assert!(table.code == Some(0) && table.out.starts_with("pool good: 0 volumes, 0 snapshots"), "{table:?}");
}
