//! Several controllers at once.

use super::*;
use std::{
    sync::{Arc, Barrier},
    thread,
};

/// Runs `work` in as many controllers, at the same moment.
fn at_once<T: Send>(root: &Path, count: usize, work: impl Fn(&Share, usize) -> T + Sync) -> Vec<T> {
    at_once_with(&|| Arc::new(open(root)), count, work)
}

/// The same in threads of one controller, as a share's helper has them.
fn at_once_in<T: Send>(share: &Arc<Share>, count: usize, work: impl Fn(&Share, usize) -> T + Sync) -> Vec<T> {
    at_once_with(&|| Arc::clone(share), count, work)
}

fn at_once_with<T: Send>(
    share: &(dyn Fn() -> Arc<Share> + Sync),
    count: usize,
    work: impl Fn(&Share, usize) -> T + Sync,
) -> Vec<T> {
    let (barrier, work) = (Barrier::new(count), &work);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..count)
            .map(|number| {
                let barrier = &barrier;
                scope.spawn(move || {
                    let share = share();
                    barrier.wait();
                    work(&share, number)
                })
            })
            .collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).collect()
    })
}

#[test]
fn one_volume_is_made_by_one() {
    let home = tempfile::tempdir().unwrap();
    for round in 0..30 {
        let wanted = volume(&format!("v{round}"), &format!("d/{round}"), OnDelete::Delete);
        let records = at_once(home.path(), 3, |share, _| again(|| create(share, &wanted)).unwrap());
        assert!(records.iter().all(|record| *record == records[0]), "{records:?}");
    }
    sound(&open(home.path()));
}

#[test]
fn one_directory_goes_to_one() {
    let home = tempfile::tempdir().unwrap();
    for round in 0..30 {
        // The same, or one in the other.
        let roots =
            [[format!("d{round}"), format!("d{round}")], [format!("d{round}/x"), format!("d{round}/x/y")]];
        for (kind, roots) in roots.iter().enumerate() {
            let outcomes = at_once(home.path(), 2, |share, number| {
                let name = format!("{round}-{kind}-{number}");
                again(|| create(share, &volume(&name, &roots[number], OnDelete::Delete)))
            });
            let made = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
            let refused =
                outcomes.iter().filter(|outcome| matches!(outcome, Err(Error::Incompatible(_)))).count();
            assert_eq!((made, refused), (1, 1), "{outcomes:?}");
            let share = open(home.path());
            for record in outcomes.into_iter().flatten() {
                share.delete_volume(record.key).unwrap();
            }
        }
    }
    let share = open(home.path());
    assert_eq!(share.volumes(None, 100).unwrap().entries, []);
    sound(&share);
}

/// One makes it, the others adopt what it made.
#[test]
fn one_directory_goes_to_all_that_retain_it() {
    let home = tempfile::tempdir().unwrap();
    for round in 0..20 {
        let records = at_once(home.path(), 3, |share, number| {
            let wanted = volume(&format!("{round}-{number}"), &format!("d{round}"), OnDelete::Retain);
            again(|| create(share, &wanted)).unwrap()
        });
        let share = open(home.path());
        for record in &records {
            share.open_root_of(record).unwrap();
        }
        assert_eq!(records.iter().filter(|record| !record.adopted).count(), 1, "{records:?}");
    }
    sound(&open(home.path()));
}

#[test]
fn a_volume_that_is_looked_up_while_it_comes_and_goes() {
    let home = tempfile::tempdir().unwrap();
    let outcomes = at_once(home.path(), 3, |share, number| {
        let wanted = volume("v", "v", OnDelete::Delete);
        for round in 0..40 {
            match (number, round % 2) {
                (0, 0) => drop(again(|| create(share, &wanted)).unwrap()),
                (0, _) | (1, 0) => again(|| share.delete_volume(key("v"))).unwrap(),
                (1, _) => drop(again(|| create(share, &wanted)).unwrap()),
                _ => drop(again(|| share.volume(key("v"))).unwrap()),
            }
        }
    });
    assert_eq!(outcomes.len(), 3);
    let share = open(home.path());
    again(|| share.delete_volume(key("v"))).unwrap();
    sound(&share);
    assert_eq!(names(home.path()), [".wharf"]);
}

#[test]
fn a_storm_leaves_a_sound_store() {
    let home = tempfile::tempdir().unwrap();
    at_once(home.path(), 3, |share, number| {
        for round in 0..25_usize {
            let name = format!("v{}", (round * 7 + number) % 4);
            let root = ["a", "a/b", "c", "c/d/e"][(round * 3 + number) % 4];
            let outcome = match (round + number) % 5 {
                0 | 1 => again(|| create(share, &volume(&name, root, OnDelete::Delete))).map(drop),
                2 => again(|| cut(share, &snapshot(&format!("s{}", round % 2), &name))).map(drop),
                3 => again(|| share.delete_snapshot(key(&format!("s{}", round % 2)))),
                _ => again(|| share.delete_volume(key(&name))),
            };
            match outcome {
                // A volume's directory that goes with the one above it cannot happen: claims are exclusive.
                Ok(()) | Err(Error::Incompatible(_) | Error::NotFound(_)) => {}
                // A volume whose deletion is under way has no directory any more.
                Err(Error::Refused(_)) if (round + number) % 5 == 2 => {}
                Err(error) => panic!("{}", error.chain()),
            }
            if round % 10 == 9 {
                again(|| share.sweep(&mut |_| {})).unwrap();
            }
        }
    });
    sound(&open(home.path()));
}

/// What a thread has seen unfinished may be finished by another one before the first gets its turn.
#[test]
fn one_thread_does_not_discard_what_another_has_finished() {
    let home = tempfile::tempdir().unwrap();
    let share = Arc::new(open(home.path()));
    at_once_in(&share, 3, |share, number| {
        for round in 0..300 {
            let (name, root) = (format!("v{round}"), format!("d/{round}"));
            match number {
                0 => match again(|| create(share, &volume(&name, &root, OnDelete::Delete))) {
                    Ok(record) => drop(share.open_root_of(&record).unwrap()),
                    Err(error) => assert!(matches!(error, Error::Incompatible(_)), "{}", error.chain()),
                },
                1 => drop(share.sweep(&mut |_| {}).unwrap()),
                // Meets the claim of a volume that is being made.
                _ => drop(create(share, &volume(&format!("x{round}"), &root, OnDelete::Archive))),
            }
        }
    });
    for record in share.volumes(None, 1000).unwrap().entries {
        share.open_root_of(&record).unwrap();
    }
    sound(&share);
}

#[test]
fn an_old_look_discards_nothing() {
    let home = tempfile::tempdir().unwrap();
    let share = open(home.path());
    create(&share, &volume("v", "v", OnDelete::Delete)).unwrap();
    fs::write(home.path().join("v/f"), b"data").unwrap();
    let clone = copy_of("c", "c", Source::Volume(key("v")));
    let mut seen = None;
    let made = share.create_volume(&clone, Abilities::default(), &mut |_| {
        seen = share.look(key("c")).unwrap();
        true
    });
    let (found, made) = (seen.unwrap(), made.unwrap());
    let State::Creating(record, by) = &found.state else { panic!("{found:?}") };
    assert_eq!(*by, share.worker);
    let turn = share.begin(Kind::Volume, key("c")).unwrap();
    assert!(!share.discard(&found, record, *by).unwrap());
    share.open_root_of(&made).unwrap();
    drop(turn);
    // Nor when the volume is gone by then.
    share.delete_volume(key("c")).unwrap();
    let newer = create(&share, &clone).unwrap();
    let _turn = share.begin(Kind::Volume, key("c")).unwrap();
    assert!(!share.discard(&found, record, *by).unwrap());
    share.open_root_of(&newer).unwrap();
}
