//! Records that are torn, flipped, swapped or something else: such an object is reported and left alone.

use crate::{
    calls::ask,
    support::{
        MIB,
        co::{Co, Spec, csi},
        data,
        driver::Driver,
        host::run,
        places::Places,
        pool::{Kind, Pool},
        unique,
    },
};
use std::{
    fs,
    os::unix::fs::{MetadataExt, symlink},
    path::{Path, PathBuf},
};
use tonic::{Code, Status};

/// Fields are dropped in this order.
struct Stand {
    co: Co,
    _driver: Driver,
    places: Places,
    pool: Pool,
    spec: Spec,
}

impl Stand {
    fn new() -> Self {
        let pool = Pool::new(Kind::Xfs, 2 << 30);
        let driver = Driver::start(&[("default", pool.path())], &[]);
        let spec = Spec::new().thin().size(8 * MIB);
        Self { co: driver.co(), _driver: driver, places: Places::new(), pool, spec }
    }

    fn volume(&mut self) -> (String, PathBuf) {
        let id = self.co.create(&unique("v"), &self.spec).unwrap().volume_id;
        let place = self.pool.path().join("volumes").join(&id["local-".len()..][..36]);
        (id, place)
    }

    fn get(&mut self, id: &str) -> Result<csi::Volume, Status> {
        let answer = ask(&mut self.co, csi::ControllerGetVolumeRequest { volume_id: id.to_owned() })?;
        Ok(answer.volume.unwrap())
    }

    fn health(&mut self, id: &str) -> Vec<String> {
        let request =
            csi::ControllerGetVolumeHealthRequest { volume_id: id.to_owned(), ..Default::default() };
        let found = ask(&mut self.co, request).unwrap().volume_health.unwrap().health_statuses;
        found.into_iter().map(|entry| entry.reason).collect()
    }

    /// A whole life beside what is damaged.
    fn others_work(&mut self) {
        let (id, _) = self.volume();
        let staging = self.places.staging("other");
        self.co.stage(&id, &staging, &self.spec).unwrap();
        self.co.unstage(&id, &staging).unwrap();
        assert!(self.co.volumes().unwrap().contains(&id));
        self.co.delete(&id).unwrap();
    }
}

fn code<T>(answer: Result<T, Status>) -> Code {
    answer.err().map_or(Code::Ok, |status| status.code())
}

/// Changes when a file is written to, replaced or given other blocks.
fn state(path: &Path) -> (u64, u64, u64, i64, i64) {
    let file = fs::symlink_metadata(path).unwrap();
    (file.ino(), file.len(), file.blocks(), file.mtime(), file.mtime_nsec())
}

#[test]
fn every_byte_of_a_record_flipped() {
    let mut stand = Stand::new();
    let (id, place) = stand.volume();
    let (record, image) = (place.join("record.json"), place.join("data/disk.img"));
    let staging = stand.places.staging("v");
    let (good, before) = (fs::read(&record).unwrap(), data::sha256(&image));
    let first = stand.get(&id).unwrap();
    let (mut damaged, mut harmless) = (0, 0);
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1 << (at % 8);
        fs::write(&record, &bad).unwrap();
        let untouched = state(&image);
        match stand.get(&id) {
            // The case of a hexadecimal digit, and white space, carry no information.
            Ok(volume) => {
                assert!(volume == first, "byte {at} was believed");
                harmless += 1;
            }
            Err(status) => {
                assert_eq!(status.code(), Code::Internal, "byte {at}: {status:?}");
                assert_eq!(code(stand.co.delete(&id)), Code::Internal, "byte {at}");
                let spec = stand.spec.clone();
                assert_eq!(code(stand.co.stage(&id, &staging, &spec)), Code::Internal, "byte {at}");
                damaged += 1;
            }
        }
        assert_eq!(state(&image), untouched, "byte {at}: the image was touched");
        assert_eq!(fs::read(&record).unwrap(), bad, "byte {at}: the record was repaired by guessing");
        if at % 100 == 0 {
            stand.others_work();
        }
    }
    assert_eq!(data::sha256(&image), before);
    fs::write(&record, &good).unwrap();
    let spec = stand.spec.clone();
    stand.co.stage(&id, &staging, &spec).unwrap();
    stand.co.unstage(&id, &staging).unwrap();
    stand.co.delete(&id).unwrap();
    println!("{damaged} bytes flipped, {harmless} more without a meaning");
    assert!(damaged > 300 && harmless < 20);
}

type Spoil = Box<dyn Fn()>;

#[test]
fn records_that_are_torn_or_something_else() {
    let mut stand = Stand::new();
    let (id, place) = stand.volume();
    let (_, other) = stand.volume();
    let name = unique("v");
    let record = place.join("record.json");
    let good = fs::read(&record).unwrap();
    let text = String::from_utf8(good.clone()).unwrap();
    let aside = place.join("aside");
    let mut cases: Vec<(&str, Spoil)> = Vec::new();
    let write = |bytes: Vec<u8>| {
        let record = record.clone();
        Box::new(move || fs::write(&record, &bytes).unwrap()) as Spoil
    };
    cases.push(("empty", write(Vec::new())));
    cases.push(("torn", write(good[..good.len() / 2].to_vec())));
    cases.push(("without its end", write(good[..good.len() - 2].to_vec())));
    cases.push(("zeroes", write(vec![0; good.len()])));
    cases.push(("twice", write([good.clone(), good.clone()].concat())));
    cases.push(("other JSON", write(b"{}".to_vec())));
    cases.push(("huge", write(vec![b' '; 1 << 20])));
    cases.push(("no text", write(vec![0xff; 600])));
    cases.push(("another volume's", write(fs::read(other.join("record.json")).unwrap())));
    cases.push(("newer", write(resealed(&text, "\"version\":1", "\"version\":2"))));
    cases.push(("with an unknown layout", write(resealed(&text, "\"image\"", "\"tape\""))));
    let (to, from) = (record.clone(), aside.clone());
    cases.push(("a symlink", Box::new(move || symlink(&from, &to).unwrap())));
    let to = record.clone();
    cases.push(("a directory", Box::new(move || fs::create_dir(&to).unwrap())));
    let to = record.clone();
    cases.push(("a fifo", Box::new(move || drop(run("mkfifo", [&to])))));
    cases.push(("missing", Box::new(|| ())));
    let image = place.join("data/disk.img");
    for (what, spoil) in &cases {
        fs::rename(&record, &aside).unwrap();
        spoil();
        let untouched = state(&image);
        assert_eq!(code(stand.get(&id)), Code::Internal, "{what}");
        assert_eq!(code(stand.co.delete(&id)), Code::Internal, "{what}");
        let (spec, staging) = (stand.spec.clone(), stand.places.staging("v"));
        assert_eq!(code(stand.co.stage(&id, &staging, &spec)), Code::Internal, "{what}");
        assert_eq!(code(stand.co.snapshot(&name, &id)), Code::Internal, "{what}");
        assert_eq!(code(stand.co.expand(&id, 16 * MIB)), Code::Internal, "{what}");
        assert_eq!(stand.health(&id), ["RecordDamaged"], "{what}");
        assert!(!stand.co.volumes().unwrap().contains(&id), "{what}");
        stand.others_work();
        assert_eq!(state(&image), untouched, "{what}: the image was touched");
        match fs::symlink_metadata(&record) {
            Ok(found) if found.is_dir() => fs::remove_dir(&record).unwrap(),
            Ok(_) => fs::remove_file(&record).unwrap(),
            Err(_) => {}
        }
        fs::rename(&aside, &record).unwrap();
        stand.get(&id).unwrap();
    }
    println!("{} cases", cases.len());
}

/// With a checksum that fits.
fn resealed(text: &str, from: &str, to: &str) -> Vec<u8> {
    let record = text.split_once("\"record\":").unwrap().1.trim_end().strip_suffix('}').unwrap();
    let changed = record.replacen(from, to, 1);
    assert_ne!(record, changed);
    let checksum = uuid::Uuid::new_v5(&uuid::Uuid::nil(), changed.as_bytes());
    format!(r#"{{"checksum":"{checksum}","record":{changed}}}"#).into_bytes()
}

#[test]
fn snapshots_with_a_damaged_record() {
    let mut stand = Stand::new();
    let (id, _) = stand.volume();
    let name = unique("s");
    let snapshot = stand.co.snapshot(&name, &id).unwrap().snapshot_id;
    let place = stand.pool.path().join("snapshots").join(&snapshot["local-snap-".len()..][..36]);
    let record = place.join("record.json");
    let good = fs::read(&record).unwrap();
    let mut cases = 0;
    for at in (0..good.len()).step_by(7) {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        fs::write(&record, &bad).unwrap();
        let request = csi::GetSnapshotRequest { snapshot_id: snapshot.clone(), ..Default::default() };
        if ask(&mut stand.co, request).is_ok() {
            continue;
        }
        assert_eq!(code(stand.co.delete_snapshot(&snapshot)), Code::Internal, "byte {at}");
        assert_eq!(code(stand.co.snapshot(&name, &id)), Code::Internal, "byte {at}");
        let spec = stand.spec.clone();
        assert_eq!(code(stand.co.restore(&unique("r"), &spec, &snapshot)), Code::Internal, "byte {at}");
        assert!(stand.co.snapshots().unwrap().is_empty());
        assert!(place.join("data/disk.img").exists());
        cases += 1;
    }
    fs::write(&record, &good).unwrap();
    stand.co.delete_snapshot(&snapshot).unwrap();
    println!("{cases} cases");
    assert!(cases > 40);
}
