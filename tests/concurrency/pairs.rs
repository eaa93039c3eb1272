//! Two that want something else with one name, and two drivers on one pool.

use crate::{
    calls::ask,
    crowd::{
        Patience, Random, code, connect, key_of, names, runtime, send, snapshot_id, volume_id,
        wait_until_free,
    },
    support::{
        MIB,
        co::{Mode, Spec, csi},
        driver::Driver,
        host,
        inventory::{Inventory, assert_same},
        places::Places,
        pool::{Kind, Pool},
        unique,
    },
};
use std::{
    fs,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};
use tonic::Code;

fn delete(id: String) -> csi::DeleteVolumeRequest {
    csi::DeleteVolumeRequest { volume_id: id, ..Default::default() }
}

/// Also for those who only look: what is half there is never seen, and absence is never taken for damage.
#[test]
fn create_and_delete_of_one_name() {
    let pool = Pool::new(Kind::Xfs, 1 << 30);
    let driver = Driver::start(&[("default", pool.path())], &[]);
    let empty = Inventory::take(&pool, &[]);
    let kinds = [
        Spec::directory("advisory").size(MIB),
        Spec::block().thin().size(MIB),
        Spec::new().thin().size(8 * MIB),
    ];
    let (runtime, stop) = (runtime(), AtomicBool::new(false));
    let mut random = Random::new(7);
    let (mut rounds, mut won) = (0, 0);
    let looked = thread::scope(|scope| {
        let lookers: Vec<_> = (0..2).map(|_| scope.spawn(|| look(&driver, &stop))).collect();
        for round in 0..90 {
            let spec = &kinds[round % 3];
            let name = "the-one".to_owned();
            let [first, second] = [12_000, 24_000].map(|most| Duration::from_micros(random.below(most)));
            let (created, deleted) = runtime.block_on(async {
                let (one, other) = (connect(&driver.socket()).await, connect(&driver.socket()).await);
                let create = async {
                    tokio::time::sleep(first).await;
                    let answer = send(&one, spec.request(&name), Patience::Enough).await;
                    code(&answer)
                };
                let remove = async {
                    tokio::time::sleep(second).await;
                    code(&send(&other, delete(volume_id(&name)), Patience::Enough).await)
                };
                tokio::join!(create, remove)
            });
            for code in [created, deleted] {
                assert!(matches!(code, Code::Ok | Code::Aborted), "{created:?} {deleted:?}");
            }
            won += usize::from(created == Code::Ok);
            wait_until_free(&pool, &name, 0);
            assert_eq!(names(&pool, "tmp"), [] as [&str; 0]);
            // Either of them came last, and both can be repeated.
            let mut co = driver.co();
            assert_eq!(co.create(&name, spec).unwrap().volume_id, volume_id(&name));
            co.delete(&volume_id(&name)).unwrap();
            assert_eq!(names(&pool, "volumes"), [] as [&str; 0]);
            rounds += 1;
        }
        stop.store(true, Ordering::SeqCst);
        lookers.into_iter().map(|looker| looker.join().unwrap()).sum::<usize>()
    });
    println!("{rounds} rounds, {won} creations won, {looked} looks");
    assert_same(&empty, &Inventory::take(&pool, &[]));
}

/// OK or NOT_FOUND, nothing else, all the time.
fn look(driver: &Driver, stop: &AtomicBool) -> usize {
    let runtime = runtime();
    let client = runtime.block_on(connect(&driver.socket()));
    let mut looks = 0;
    while !stop.load(Ordering::SeqCst) {
        let id = volume_id("the-one");
        let request = csi::ControllerGetVolumeRequest { volume_id: id.clone() };
        let answer = runtime.block_on(send(&client, request, Patience::Enough));
        assert!(matches!(code(&answer), Code::Ok | Code::NotFound), "{answer:?}");
        let request = csi::ControllerGetVolumeHealthRequest { volume_id: id, ..Default::default() };
        let health = runtime.block_on(send(&client, request, Patience::Enough));
        assert!(matches!(code(&health), Code::Ok | Code::NotFound), "{health:?}");
        if let Ok(answer) = health {
            let found = answer.volume_health.unwrap().health_statuses;
            assert!(found.is_empty(), "{found:?}");
        }
        looks += 2;
    }
    looks
}

/// Figures, health and growth of a mount that comes and goes are the volume's own, or NOT_FOUND.
#[test]
fn looking_at_a_mount_that_comes_and_goes() {
    let pool = Pool::new(Kind::Xfs, 1 << 30);
    let driver = Driver::start(&[("default", pool.path())], &[]);
    let places = Places::new();
    let spec = Spec::new().thin().size(16 * MIB);
    let mut co = driver.co();
    let id = co.create("the-one", &spec).unwrap().volume_id;
    let staging = places.staging("s");
    let stop = AtomicBool::new(false);
    let looks: usize = thread::scope(|scope| {
        let lookers: Vec<_> =
            (0..2).map(|_| scope.spawn(|| look_at_mount(&driver, &id, &staging, &stop))).collect();
        for _ in 0..60 {
            while let Err(status) = co.stage(&id, &staging, &spec) {
                assert_eq!(status.code(), Code::Aborted, "{status:?}");
            }
            while let Err(status) = co.unstage(&id, &staging) {
                assert_eq!(status.code(), Code::Aborted, "{status:?}");
            }
        }
        stop.store(true, Ordering::SeqCst);
        lookers.into_iter().map(|looker| looker.join().unwrap()).sum()
    });
    println!("60 times mounted, {looks} looks");
}

fn look_at_mount(driver: &Driver, id: &str, staging: &Path, stop: &AtomicBool) -> usize {
    let mut co = driver.co();
    let mut looks = 0;
    while !stop.load(Ordering::SeqCst) {
        match co.stats(id, staging) {
            Ok(stats) => assert!(stats.usage[0].total <= 16 << 20, "another filesystem's: {stats:?}"),
            Err(status) => assert_eq!(status.code(), Code::NotFound, "{status:?}"),
        }
        let request = csi::NodeGetVolumeHealthRequest {
            volume_id: id.to_owned(),
            staging_target_path: staging.to_str().unwrap().to_owned(),
            ..Default::default()
        };
        let found = ask(&mut co, request).unwrap().volume_health.unwrap().health_statuses;
        assert!(found.iter().all(|entry| entry.reason == "NotMounted"), "{found:?}");
        if let Err(status) = co.expand_node(id, staging, 0) {
            assert!(matches!(status.code(), Code::NotFound | Code::Aborted), "{status:?}");
        }
        looks += 3;
    }
    looks
}

/// A second driver starts and works on the same pool, as while a DaemonSet is updated.
#[test]
fn two_drivers_on_one_pool() {
    let pool = Pool::new(Kind::Xfs, 4 << 30);
    let drivers = [(); 2].map(|()| Driver::start(&[("default", pool.path())], &[]));
    let places = Places::new();
    let empty = Inventory::take(&pool, &[places.path()]);
    let runtime = runtime();
    let kinds = [
        Spec::new().thin().size(8 * MIB),
        Spec::block().thin().size(8 * MIB),
        Spec::directory("advisory").size(MIB),
    ];
    let mut both = 0;
    let mut rounds = 0;
    for round in 0..15 {
        let spec = kinds[round % 3].clone().mode(Mode::SingleNodeMultiWriter);
        let (name, id) = (unique("v"), String::new());
        let id = id + &volume_id(&name);
        let (staging, target) = (places.staging(&name), places.target(&name));
        let (staging_text, target_text) = (staging.to_str().unwrap(), target.to_str().unwrap());
        let stage = csi::NodeStageVolumeRequest {
            volume_id: id.clone(),
            staging_target_path: staging_text.into(),
            volume_capability: Some(spec.capability()),
            ..Default::default()
        };
        let publish = csi::NodePublishVolumeRequest {
            volume_id: id.clone(),
            staging_target_path: staging_text.into(),
            target_path: target_text.into(),
            volume_capability: Some(spec.capability()),
            ..Default::default()
        };
        let cut = csi::CreateSnapshotRequest {
            source_volume_id: id.clone(),
            name: name.clone(),
            ..Default::default()
        };
        let unpublish =
            csi::NodeUnpublishVolumeRequest { volume_id: id.clone(), target_path: target_text.into() };
        let unstage =
            csi::NodeUnstageVolumeRequest { volume_id: id.clone(), staging_target_path: staging_text.into() };
        macro_rules! at_once {
            ($request:expr) => {{
                let answers = runtime.block_on(async {
                    let (one, other) =
                        (connect(&drivers[0].socket()).await, connect(&drivers[1].socket()).await);
                    tokio::join!(
                        send(&one, $request.clone(), Patience::Enough),
                        send(&other, $request.clone(), Patience::Enough)
                    )
                });
                let codes = [code(&answers.0), code(&answers.1)];
                assert!(codes.iter().all(|code| matches!(code, Code::Ok | Code::Aborted)), "{answers:?}");
                both += usize::from(codes == [Code::Ok; 2]);
                if let (Ok(one), Ok(other)) = &answers {
                    assert!(one == other, "two answers");
                }
                // Whoever was told to repeat does so, at either.
                let client = runtime.block_on(connect(&drivers[round % 2].socket()));
                runtime.block_on(send(&client, $request.clone(), Patience::Enough)).unwrap();
            }};
        }
        at_once!(spec.request(&name));
        assert_eq!(names(&pool, "volumes"), [key_of(&name).to_string()]);
        at_once!(stage);
        at_once!(publish);
        let staged = if spec.block { staging.join("device") } else { staging.clone() };
        for place in [&staged, &target] {
            let count = host::mounts().iter().filter(|mount| mount.point == *place).count();
            assert_eq!(count, 1, "{}", place.display());
        }
        assert!(host::loops_below(pool.path()).len() <= 1);
        at_once!(cut);
        assert_eq!(names(&pool, "snapshots"), [key_of(&name).to_string()]);
        at_once!(unpublish);
        at_once!(unstage);
        at_once!(csi::DeleteSnapshotRequest { snapshot_id: snapshot_id(&name), ..Default::default() });
        at_once!(delete(id.clone()));
        fs::remove_dir(&staging).unwrap();
        rounds += 1;
    }
    println!("{rounds} rounds of 8 requests at two drivers, {both} answered OK by both");
    assert_same(&empty, &Inventory::take(&pool, &[places.path()]));
}
