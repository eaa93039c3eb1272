#![allow(clippy::disallowed_methods, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::{
    scratch::{MIB, Mounted, Scratch, attach, detach, eventually, inode},
    *,
};
use crate::os::mount::{self, Attributes};
use rustix::{
    fs::{FlockOperation, OFlags, flock},
    io::Errno,
};
use std::{
    collections::HashSet,
    fs::{self, OpenOptions},
    io::{Read, Write},
    os::{
        fd::AsRawFd,
        unix::fs::{FileExt, FileTypeExt, MetadataExt, symlink},
    },
    path::Path,
    process::Command,
};

fn now(held: &Held) -> Status {
    status(held).unwrap().expect("attached")
}

fn reopen(number: u32) -> Held {
    open(number).unwrap().expect("there is such a device")
}

/// All loops of an image, by the kernel's word.
fn loops_of(image: &Path) -> Vec<u32> {
    let wanted = inode(image);
    let numbers = fs::read_dir("/sys/block").unwrap().filter_map(|entry| {
        entry.unwrap().file_name().to_str().unwrap().strip_prefix("loop").map(|n| n.parse().unwrap())
    });
    let of_image = |number: &u32| {
        open(*number)
            .unwrap()
            .and_then(|held| status(&held).unwrap())
            .is_some_and(|now| now.backing == wanted)
    };
    numbers.filter(of_image).collect()
}

/// A loop of somebody else's making.
fn losetup(arguments: &[&str], image: &Path) -> u32 {
    let output =
        Command::new("losetup").args(["--find", "--show"]).args(arguments).arg(image).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let node = String::from_utf8(output.stdout).unwrap();
    node.trim().strip_prefix("/dev/loop").unwrap().parse().unwrap()
}

#[test]
fn a_new_loop_is_as_asked_for_and_goes_with_its_handle() {
    let scratch = Scratch::new();
    let image = scratch.image("a", 8 * MIB);
    let held = attach(&image);
    let status = now(&held);
    assert_eq!(status.backing, inode(&image));
    assert!(status.autoclear && !status.read_only);
    assert_eq!((status.offset, status.size_limit), (0, 0));
    let dio = fs::read_to_string(format!("/sys/block/loop{}/loop/dio", held.number)).unwrap();
    assert_eq!(status.direct_io, dio.trim() == "1");
    assert_eq!(ioctl::block_size(&held.file), Ok(4096));
    assert_eq!(size(&held).unwrap(), 8 * MIB);
    assert_eq!(find(status.backing).unwrap(), Some(held.number));
    assert_eq!(held.file.metadata().unwrap().rdev(), device_number(held.number));

    drop(held);
    eventually("autoclear", || find(status.backing).unwrap().is_none());
    assert!(wait_unused(&image, Duration::from_secs(5)).unwrap());
}

#[test]
fn numbers_and_device_numbers() {
    assert_eq!(number_of(device_number(70_000)), Some(70_000));
    assert_eq!(number_of(rustix::fs::makedev(8, 1)), None);
    assert!(open(1_000_000).unwrap().is_none());
    assert!(!node::exists(1_000_000), "opening must not make a device");
}

#[test]
fn without_autoclear_a_bind_mount_keeps_its_loop_and_with_it_it_does_not() {
    for (name, autoclear) in [("kept", false), ("lost", true)] {
        let scratch = Scratch::new();
        let image = scratch.image(name, 8 * MIB);
        let target = scratch.empty_file("device");
        let _mounted = Mounted::guard(&target);
        let held = attach(&image);
        let number = held.number;
        let direct_io = now(&held).direct_io;
        mount::bind(&held.path(), &target, Attributes::default()).unwrap();
        set_autoclear(&held, autoclear).unwrap();
        assert_eq!(now(&held).autoclear, autoclear);
        assert_eq!(now(&held).direct_io, direct_io, "the other flags stay");
        drop(held);
        if autoclear {
            eventually("gone", || find(inode(&image)).unwrap().is_none());
        } else {
            assert_eq!(find(inode(&image)).unwrap(), Some(number));
            // The pod's view of it.
            let device = OpenOptions::new().read(true).write(true).open(&target).unwrap();
            device.write_all_at(&[7; 4096], 4096).unwrap();
            sync(number).unwrap();
            drop(device);
            let mut block = [0; 4096];
            File::open(&image).unwrap().read_exact_at(&mut block, 4096).unwrap();
            assert_eq!(block, [7; 4096]);
            detach(inode(&image));
        }
    }
}

#[test]
fn a_second_attach_finds_the_loop_of_the_first_and_nobody_waits_for_a_lease() {
    let scratch = Scratch::new();
    let image = scratch.image("a", 8 * MIB);
    let first = attach(&image);
    let begin = Instant::now();
    let second = attach(&image);
    assert_eq!(first.number, second.number);
    File::open(&image).unwrap();
    OpenOptions::new().write(true).open(&image).unwrap();
    assert!(in_use(&image).unwrap());
    assert!(begin.elapsed() < Duration::from_secs(10), "a lease was left on the image");
    assert_eq!(loops_of(&image), [first.number]);
    // What another process of wharf meets in the moment when no lease is held and no loop attached.
    let lock = flock(File::open(&image).unwrap(), FlockOperation::NonBlockingLockExclusive);
    assert_eq!(lock, Err(Errno::WOULDBLOCK), "the loop keeps the lock of the file it was given");
}

#[test]
fn a_stray_loop_is_found_and_used() {
    let scratch = Scratch::new();
    let image = scratch.image("a", 8 * MIB);
    let stray = losetup(&[], &image);
    let held = attach(&image);
    assert_eq!(held.number, stray);
    assert!(!now(&held).autoclear, "as its maker left it");
    assert_eq!(loops_of(&image), [stray]);
    // By another name, which the path in sysfs does not tell.
    let link = scratch.path("link");
    fs::hard_link(&image, &link).unwrap();
    assert_eq!(attach(&link).number, stray);
}

#[test]
fn a_stray_loop_that_shows_a_part_or_is_read_only_is_refused() {
    for arguments in [["--offset", "4096"].as_slice(), &["--sizelimit", "4096"], &["--read-only"]] {
        let scratch = Scratch::new();
        let image = scratch.image("a", 8 * MIB);
        let stray = losetup(arguments, &image);
        let error = ensure_attached(&image).unwrap_err().to_string();
        assert!(error.contains(&format!("/dev/loop{stray}")), "{error}");
        assert_eq!(loops_of(&image), [stray]);
    }
}

#[test]
fn an_image_that_is_merely_open_is_elsewhere() {
    let scratch = Scratch::new();
    let image = scratch.image("a", 8 * MIB);
    assert!(!in_use(&image).unwrap());
    for options in [OpenOptions::new().read(true), OpenOptions::new().write(true)] {
        let other = options.open(&image).unwrap();
        let begin = Instant::now();
        assert!(matches!(ensure_attached(&image).unwrap(), Attach::Elsewhere));
        assert!(in_use(&image).unwrap());
        assert!(!wait_unused(&image, Duration::from_millis(20)).unwrap());
        assert!(begin.elapsed() < Duration::from_secs(10));
        assert!(loops_of(&image).is_empty());
        drop(other);
    }
    attach(&image);
}

#[test]
fn a_lease_of_another_program_is_not_waited_for() {
    let scratch = Scratch::new();
    let image = scratch.image("a", 8 * MIB);
    let other = File::open(&image).unwrap();
    // SAFETY: passes integers only.
    assert_eq!(unsafe { libc::fcntl(other.as_raw_fd(), libc::F_SETLEASE, libc::F_WRLCK) }, 0);
    let begin = Instant::now();
    assert!(in_use(&image).unwrap());
    assert!(matches!(ensure_attached(&image).unwrap(), Attach::Elsewhere));
    assert!(begin.elapsed() < Duration::from_secs(10), "opened without O_NONBLOCK");
}

#[test]
fn only_regular_files_are_images() {
    let scratch = Scratch::new();
    let image = scratch.image("a", 8 * MIB);
    let link = scratch.path("link");
    symlink(&image, &link).unwrap();
    assert_eq!(ensure_attached(&link).unwrap_err().errno(), Some(libc::ELOOP));
    assert!(ensure_attached(&scratch.path("absent")).unwrap_err().is_not_found());
    assert!(in_use(&scratch.path("absent")).unwrap_err().is_not_found());
    assert!(in_use(&scratch.directory("d")).is_err());
}

#[test]
fn many_at_once_on_one_image_get_one_loop() {
    let scratch = Scratch::new();
    let image = scratch.image("a", 8 * MIB);
    for _ in 0..10 {
        let outcomes: Vec<_> = thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| ensure_attached(&image).unwrap())).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let numbers: HashSet<u32> = outcomes
            .iter()
            .filter_map(|outcome| match outcome {
                Attach::Held(held) => Some(held.number),
                Attach::Elsewhere => None,
            })
            .collect();
        assert!(numbers.len() <= 1, "{outcomes:?}");
        assert_eq!(loops_of(&image), numbers.into_iter().collect::<Vec<_>>());
        drop(outcomes);
        assert!(wait_unused(&image, Duration::from_secs(5)).unwrap());
    }
}

#[test]
fn many_at_once_on_many_images_get_a_loop_each() {
    let scratch = Scratch::new();
    let images: Vec<_> = (0..16).map(|n| scratch.image(&n.to_string(), MIB)).collect();
    let held: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = images.iter().map(|image| scope.spawn(|| attach(image))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let numbers: HashSet<u32> = held.iter().map(|held| held.number).collect();
    assert_eq!(numbers.len(), images.len());
    for (held, image) in held.iter().zip(&images) {
        assert_eq!(now(held).backing, inode(image));
    }
}

#[test]
fn a_deleted_image_is_still_found() {
    let scratch = Scratch::new();
    let image = scratch.image("a", 8 * MIB);
    let held = attach(&image);
    let wanted = inode(&image);
    fs::remove_file(&image).unwrap();
    let name = fs::read_to_string(format!("/sys/block/loop{}/loop/backing_file", held.number)).unwrap();
    assert!(name.trim_end().ends_with(" (deleted)"), "{name}");
    assert_eq!(find(wanted).unwrap(), Some(held.number));
}

#[test]
fn the_same_inode_number_on_another_filesystem_is_another_image() {
    let scratch = Scratch::new();
    let pools = ["one", "two"].map(|name| {
        let point = scratch.directory(format!("{name}.m"));
        let mounted = Mounted::guard(&point);
        let pool = attach(&scratch.ext4(name));
        mount::mount(&pool.path(), &point, "ext4", Attributes::default(), "").unwrap();
        let image = point.join("image");
        File::create_new(&image).unwrap().set_len(MIB).unwrap();
        (mounted, image)
    });
    let [one, two] = [&pools[0].1, &pools[1].1];
    assert_eq!(inode(one).number, inode(two).number);
    let held = attach(one);
    assert_eq!(find(inode(two)).unwrap(), None);
    assert!(!in_use(two).unwrap());
    assert_ne!(attach(two).number, held.number);
    drop(held);
    assert!(pools.iter().all(|(_, image)| wait_unused(image, Duration::from_secs(5)).unwrap()));
}

#[test]
fn searching_survives_loops_that_come_and_go() {
    let scratch = Scratch::new();
    let image = scratch.image("a", MIB);
    let held = attach(&image);
    let comings: Vec<_> = (0..2).map(|n| scratch.image(&format!("n{n}"), MIB)).collect();
    let stop = std::sync::atomic::AtomicBool::new(false);
    thread::scope(|scope| {
        for coming in &comings {
            let stop = &stop;
            scope.spawn(move || {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    let _may_be_elsewhere = ensure_attached(coming).unwrap();
                }
            });
        }
        let outcome: Vec<_> = (0..200).map(|_| find(inode(&image))).collect();
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(outcome.iter().all(|found| matches!(found, Ok(Some(n)) if *n == held.number)), "{outcome:?}");
    });
}

#[test]
fn growth_is_taken_over_and_checked() {
    let scratch = Scratch::new();
    let image = scratch.image("a", 8 * MIB);
    let held = attach(&image);
    OpenOptions::new().write(true).open(&image).unwrap().set_len(12 * MIB).unwrap();
    assert_eq!(size(&held).unwrap(), 8 * MIB);
    set_capacity(&held, 12 * MIB).unwrap();
    assert_eq!(size(&held).unwrap(), 12 * MIB);
    // Any handle will do.
    let other = reopen(held.number);
    OpenOptions::new().write(true).open(&image).unwrap().set_len(13 * MIB).unwrap();
    set_capacity(&other, 13 * MIB).unwrap();
    let error = set_capacity(&held, 16 * MIB).unwrap_err().to_string();
    assert!(error.contains("13631488"), "{error}");
}

#[test]
fn clearing_with_and_without_another_opener() {
    let scratch = Scratch::new();
    let image = scratch.image("a", 8 * MIB);
    for autoclear in [false, true] {
        let held = attach(&image);
        set_autoclear(&held, autoclear).unwrap();
        let number = held.number;
        let mut other = File::open(held.path()).unwrap();

        assert!(!clear(held).unwrap(), "somebody has it open");
        let again = reopen(number);
        assert_eq!(now(&again).backing, inode(&image));
        assert!(!now(&again).autoclear, "the kernel's AUTOCLEAR has been taken off");
        other.read_exact(&mut [0; 4096]).unwrap();
        drop((again, other));
        assert_eq!(find(inode(&image)).unwrap(), Some(number), "so the last close does not detach");

        detach(inode(&image));
        assert_eq!(find(inode(&image)).unwrap(), None);
        assert!(!in_use(&image).unwrap(), "the kernel has let go of the image");
    }
}

#[test]
fn clearing_waits_for_a_brief_opener() {
    let scratch = Scratch::new();
    let image = scratch.image("a", 8 * MIB);
    let held = attach(&image);
    let other = File::open(held.path()).unwrap();
    thread::scope(|scope| {
        scope.spawn(move || {
            thread::sleep(Duration::from_millis(20));
            drop(other);
        });
        assert!(clear(held).unwrap());
    });
}

#[test]
fn clearing_what_is_not_attached_is_done() {
    let scratch = Scratch::new();
    let image = scratch.image("a", 8 * MIB);
    let held = attach(&image);
    // Another handle of a loop that was detached meanwhile; nobody can take the number while it is open.
    eventually("detached", || {
        let _gone_already = ioctl::clear(&held.file);
        status(&held).unwrap().is_none()
    });
    assert!(clear(held).unwrap());
}

#[test]
fn write_protection_is_read_back_and_does_not_outlive_the_loop() {
    let scratch = Scratch::new();
    let image = scratch.image("a", 8 * MIB);
    let next = scratch.image("b", 8 * MIB);
    for _ in 0..50 {
        let held = attach(&image);
        let number = held.number;
        assert!(!is_read_only(&held).unwrap());
        set_read_only(&held, true).unwrap();
        assert!(is_read_only(&held).unwrap());
        let refused =
            OpenOptions::new().write(true).open(held.path()).and_then(|mut device| device.write(&[1; 4096]));
        assert!(refused.is_err(), "{refused:?}");
        drop(held);
        eventually("gone", || find(inode(&image)).unwrap().is_none());
        // The kernel hands out the lowest free number; a parallel test may be faster.
        let again = attach(&next);
        assert!(!is_read_only(&again).unwrap(), "loop {}", again.number);
        let device = OpenOptions::new().write(true).open(again.path()).unwrap();
        device.write_all_at(&[1; 4096], 0).unwrap();
        drop(device);
        let same = again.number == number;
        drop(again);
        if same {
            return;
        }
    }
    panic!("never got the same number twice");
}

#[test]
fn a_stacked_loop_is_read_only_and_found() {
    let scratch = Scratch::new();
    let image = scratch.image("a", 8 * MIB);
    let base = attach(&image);
    let writer = OpenOptions::new().read(true).write(true).open(base.path()).unwrap();
    writer.write_all_at(&[9; 4096], 0).unwrap();

    let stacked = attach_read_only_on(base.number).unwrap();
    let status = now(&stacked);
    assert!(status.read_only && status.autoclear);
    assert_eq!(status.backing_rdev, device_number(base.number));
    assert!(is_read_only(&stacked).unwrap());
    assert!(!is_read_only(&base).unwrap());
    assert_eq!(size(&stacked).unwrap(), 8 * MIB);
    assert_eq!(stacked_on(base.number).unwrap(), [stacked.number]);
    let refused =
        OpenOptions::new().write(true).open(stacked.path()).and_then(|mut device| device.write(&[1; 4096]));
    assert!(refused.is_err(), "{refused:?}");
    let mut block = [0; 4096];
    stacked.file.read_exact_at(&mut block, 0).unwrap();
    assert_eq!(block, [9; 4096], "shows the volume");

    drop(writer);
    let number = base.number;
    assert!(!clear(base).unwrap(), "the stacked loop has its base open");
    drop(stacked);
    eventually("the stacked loop goes with its handle", || stacked_on(number).unwrap().is_empty());
    detach(inode(&image));
}

#[test]
fn nothing_is_stacked_on_a_loop_without_backing() {
    let error = attach_read_only_on(1_000_000).unwrap_err().to_string();
    assert!(error.contains("/dev/loop1000000"), "{error}");
    assert!(stacked_on(1_000_000).unwrap().is_empty());
}

#[test]
fn a_missing_node_is_made_and_a_wrong_one_refused() {
    let scratch = Scratch::new();
    let held = attach(&scratch.image("a", MIB));
    let dev = scratch.directory("dev");
    let file = node::open_in(&dev, held.number, OFlags::RDONLY).unwrap().unwrap();
    assert_eq!(now(&Held { number: held.number, file }), now(&held));
    let made = fs::metadata(dev.join(format!("loop{}", held.number))).unwrap();
    assert!(made.file_type().is_block_device());

    let wrong = scratch.directory("wrong");
    fs::write(wrong.join("loop0"), "").unwrap();
    let error = node::open_in(&wrong, 0, OFlags::RDONLY).unwrap_err().to_string();
    assert!(error.contains("7:0"), "{error}");
    symlink(held.path(), wrong.join("loop1")).unwrap();
    assert_eq!(node::open_in(&wrong, 1, OFlags::RDONLY).unwrap_err().errno(), Some(libc::ELOOP));
}

#[test]
fn writing_back_a_device_that_is_not_there_is_an_error() {
    assert!(sync(1_000_000).is_err());
}

#[test]
fn a_taken_number_is_no_error() {
    let scratch = Scratch::new();
    let first = attach(&scratch.image("a", MIB));
    let second = scratch.image("b", MIB);
    let (file, _) = image::open(&second, OFlags::RDWR).unwrap().unwrap();
    let taken = attach::configure_number(first.number, &file, ioctl::AUTOCLEAR, &second).unwrap();
    assert!(taken.is_none(), "{taken:?}");
}
