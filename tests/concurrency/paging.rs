//! Lists that are read page by page while others delete and create.

use crate::{
    calls::ask,
    support::{
        co::{Co, Spec, csi},
        driver::Driver,
        pool::{Kind, Pool},
        unique,
    },
};
use std::collections::BTreeSet;

const OBJECTS: usize = 30;

/// One page: the ids, and the token of the next.
type Page = (Vec<String>, String);

fn volumes(co: &mut Co, max_entries: i32, starting_token: String) -> Page {
    let answer = ask(co, csi::ListVolumesRequest { max_entries, starting_token }).unwrap();
    (answer.entries.into_iter().map(|entry| entry.volume.unwrap().volume_id).collect(), answer.next_token)
}

fn snapshots(co: &mut Co, max_entries: i32, starting_token: String) -> Page {
    let answer =
        ask(co, csi::ListSnapshotsRequest { max_entries, starting_token, ..Default::default() }).unwrap();
    let ids = answer.entries.into_iter().map(|entry| entry.snapshot.unwrap().snapshot_id).collect();
    (ids, answer.next_token)
}

fn new_volume(co: &mut Co, spec: &Spec) -> String {
    co.create(&unique("v"), spec).unwrap().volume_id
}

#[test]
fn volumes_page_by_page() {
    let pools = [Pool::new(Kind::Xfs, 1 << 30), Pool::new(Kind::Ext4, 1 << 30)];
    let driver = Driver::start(&[("default", pools[0].path()), ("other", pools[1].path())], &[]);
    let mut co = driver.co();
    let spec = |number: usize| {
        let pool = if number.is_multiple_of(2) { "default" } else { "other" };
        Spec::directory("advisory").size(1 << 20).pool(pool)
    };
    for number in 0..OBJECTS {
        new_volume(&mut co, &spec(number));
    }
    let mut made = 0;
    let create = |co: &mut Co| {
        made += 1;
        new_volume(co, &spec(made));
    };
    let pages = read(&mut co, volumes, create, |co, id| co.delete(id).unwrap());
    println!("{pages} pages of volumes");
}

#[test]
fn snapshots_page_by_page() {
    let pool = Pool::new(Kind::Xfs, 1 << 30);
    let driver = Driver::start(&[("default", pool.path())], &[]);
    let mut co = driver.co();
    let volume = new_volume(&mut co, &Spec::block().thin().size(4096));
    let create = |co: &mut Co| drop(co.snapshot(&unique("s"), &volume).unwrap());
    for _ in 0..OBJECTS {
        create(&mut co);
    }
    let pages = read(&mut co, snapshots, create, |co, id| co.delete_snapshot(id).unwrap());
    // Of one volume, with others in between.
    let other = new_volume(&mut co, &Spec::block().thin().size(4096));
    let wanted: BTreeSet<_> =
        (0..7).map(|_| co.snapshot(&unique("s"), &other).unwrap().snapshot_id).collect();
    let mut request =
        csi::ListSnapshotsRequest { source_volume_id: other, max_entries: 3, ..Default::default() };
    let mut found = Vec::new();
    loop {
        let answer = ask(&mut co, request.clone()).unwrap();
        assert!(answer.entries.len() <= 3);
        found.extend(answer.entries.into_iter().map(|entry| entry.snapshot.unwrap().snapshot_id));
        if answer.next_token.is_empty() {
            break;
        }
        request.starting_token = answer.next_token;
    }
    assert_eq!(found.len(), 7);
    assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), wanted);
    println!("{pages} pages of snapshots");
}

/// With each page size: between two pages one that was seen, one that was not, and the one that the token
/// names are deleted, and two are made. What was there all the time is seen, once; nothing is seen twice.
fn read(
    co: &mut Co,
    list: fn(&mut Co, i32, String) -> Page,
    mut create: impl FnMut(&mut Co),
    delete: fn(&mut Co, &str),
) -> usize {
    let mut pages = 0;
    for size in [1, 4, 7, 1000, 0] {
        let mut steady: BTreeSet<_> = list(co, 0, String::new()).0.into_iter().collect();
        let mut seen = Vec::new();
        let mut token = String::new();
        loop {
            let (ids, next) = list(co, size, token);
            assert!(size == 0 || ids.len() <= usize::try_from(size).unwrap());
            seen.extend(ids);
            pages += 1;
            if next.is_empty() {
                break;
            }
            token = next;
            let unseen = steady.iter().rfind(|id| !seen.contains(*id)).cloned();
            let gone = [seen.first().cloned(), seen.last().cloned(), unseen];
            for id in gone.into_iter().flatten().filter(|_| pages % 3 == 0) {
                delete(co, &id);
                steady.remove(&id);
            }
            create(co);
        }
        let once: BTreeSet<_> = seen.iter().cloned().collect();
        assert_eq!(once.len(), seen.len(), "something was seen twice in pages of {size}");
        let missed: Vec<_> = steady.difference(&once).collect();
        assert!(missed.is_empty(), "pages of {size}: {missed:?}");
    }
    pages
}
