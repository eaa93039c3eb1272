#![allow(clippy::unwrap_used, clippy::panic)]
use super::*;
use crate::{error::Error, volume::nfs::server::Server};
use proptest::prelude::*;

const FOUR: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));

fn six() -> IpAddr {
    "fd00::1".parse().unwrap()
}

fn settings(text: &str) -> Settings {
    Settings::parse_list(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn options(text: &str) -> Options {
    settings(text).resolve().unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[track_caller]
fn refusal(text: &str) -> String {
    let Err(error) = Settings::parse_list(text).and_then(Settings::resolve) else {
        panic!("{text:?} passed")
    };
    assert!(matches!(error, Error::Invalid(_)));
    error.to_string()
}

#[test]
fn what_people_write_is_known_to_the_kernel() {
    for (text, version, data) in [
        ("", Version::V42, "vers=4.2,addr=10.0.0.1"),
        ("nfsvers=4.1,hard", Version::V41, "vers=4.1,addr=10.0.0.1,hard"),
        (
            "v4.0,softerr,timeo=600,retrans=2",
            Version::V40,
            "vers=4.0,addr=10.0.0.1,softerr,timeo=600,retrans=2",
        ),
        (
            "hard,nfsvers=4.1,rsize=1048576,wsize=1048576,timeo=600,retrans=2,noresvport",
            Version::V41,
            "vers=4.1,addr=10.0.0.1,hard,timeo=600,retrans=2,rsize=1048576,wsize=1048576,noresvport",
        ),
        ("nolock,nconnect=16,noatime,nodiratime", Version::V42, "vers=4.2,addr=10.0.0.1,nconnect=16"),
        (
            "port=2050,proto=tcp,sec=krb5p:krb5i:krb5p",
            Version::V42,
            "vers=4.2,proto=tcp,port=2050,sec=krb5p:krb5i,addr=10.0.0.1",
        ),
        ("xprtsec=mtls", Version::V42, "vers=4.2,xprtsec=mtls,addr=10.0.0.1"),
        ("mountport=1,mountproto=udp,noacl", Version::V42, "vers=4.2,addr=10.0.0.1"),
        (
            "acregmin=1,actimeo=3,noac,nocto",
            Version::V42,
            "vers=4.2,addr=10.0.0.1,noac,actimeo=3,acregmin=1,nocto",
        ),
        (
            "lookupcache=positive,fsc,sync,nosharecache",
            Version::V42,
            "vers=4.2,addr=10.0.0.1,sync,lookupcache=pos,nosharecache,fsc",
        ),
        ("defaults,rw,intr,fg,retry=3,mountvers=3,_netdev", Version::V42, "vers=4.2,addr=10.0.0.1"),
        ("vers=3", Version::V3, "vers=3,nolock,proto=tcp,mountproto=tcp,addr=10.0.0.1"),
        (
            "vers=3,nolock,noacl,port=2050,mountport=20048,mountproto=udp",
            Version::V3,
            "vers=3,nolock,proto=tcp,mountproto=udp,mountport=20048,port=2050,addr=10.0.0.1,noacl",
        ),
        (
            "v3,local_lock=all,port=2049",
            Version::V3,
            "vers=3,nolock,proto=tcp,mountproto=tcp,port=2049,addr=10.0.0.1",
        ),
    ] {
        assert_eq!(options(text).data(version, FOUR, false).unwrap(), data, "{text}");
    }
    let own = options("sharecache,hard").data(Version::V42, FOUR, true).unwrap();
    assert_eq!(own, "vers=4.2,addr=10.0.0.1,hard,nosharecache");
}

#[test]
fn addresses_of_both_families() {
    assert_eq!(options("").data(Version::V42, six(), false).unwrap(), "vers=4.2,addr=fd00::1");
    assert_eq!(
        options("vers=3").data(Version::V3, six(), false).unwrap(),
        "vers=3,nolock,proto=tcp6,mountproto=tcp6,addr=fd00::1"
    );
    assert!(options("proto=tcp6").data(Version::V42, six(), false).is_ok());
    for (text, address) in
        [("proto=tcp", six()), ("proto=tcp6", FOUR), ("vers=3,mountproto=udp", six()), ("rdma", six())]
    {
        let error = options(text).data(Version::V3, address, false).unwrap_err().to_string();
        assert!(error.contains("IPv"), "{error}");
        let server = Server::parse(&address.to_string()).unwrap();
        assert!(options(text).connection().check_server(&server).is_err(), "{text}");
    }
    let name = Server::parse("nas").unwrap();
    assert!(options("proto=tcp6").connection().check_server(&name).is_ok());
    assert_eq!(options("vers=3,mountproto=udp6").connection().family(), Some(Family::V6));
    assert_eq!(options("").connection().family(), None);
}

#[test]
fn versions_are_tried_from_the_best_on() {
    use Version::{V3, V40, V41, V42};
    for (text, versions) in [
        ("", &[V42, V41, V40][..]),
        ("vers=4", &[V42, V41, V40]),
        ("v4", &[V42, V41, V40]),
        ("vers=4.2", &[V42]),
        ("nfsvers=4.0", &[V40]),
        ("vers=4,minorversion=1", &[V41]),
        ("minorversion=0", &[V40]),
        ("vers=4.1,minorversion=1", &[V41]),
        ("v3", &[V3]),
    ] {
        assert_eq!(options(text).connection().versions(), versions, "{text}");
    }
    for bad in [
        "vers=2",
        "vers=4.3",
        "vers=",
        "vers",
        "v2",
        "vers=3,minorversion=1",
        "vers=4.1,minorversion=2",
        "vers=3,vers=4",
    ] {
        refusal(bad);
    }
    assert_eq!([V3, V42].map(Version::filesystem), ["nfs", "nfs4"]);
}

#[test]
fn version_three_has_no_locks() {
    for bad in ["vers=3,lock", "v3,local_lock=none", "nfsvers=3,local_lock=flock"] {
        assert!(refusal(bad).contains("rpc.statd"), "{bad}");
    }
    assert!(settings("lock").overridden_by(settings("vers=3")).resolve().is_err());
    assert!(settings("vers=3,lock").overridden_by(settings("nolock")).resolve().is_ok());
    // With version 4 the option means nothing either way, also to the kernel.
    assert!(settings("lock").resolve().is_ok());
}

#[test]
fn options_that_are_never_accepted_are_named_with_a_reason() {
    for (text, why) in [
        ("dev", "option dev is not allowed: a device node"),
        ("context=system_u:object_r:x", "option context is not allowed"),
        ("rootcontext=\"a\"", "option rootcontext is not allowed"),
        ("addr=10.0.0.2", "option addr is not allowed"),
        ("clientaddr=10.0.0.2", "option clientaddr is not allowed"),
        ("mountaddr=10.0.0.2", "option mountaddr is not allowed"),
        ("udp", "option udp is not allowed"),
        ("bg", "option bg is not allowed"),
        ("remount", "option remount is not allowed"),
    ] {
        let said = refusal(text);
        assert!(said.contains(why) && said.contains("known are vers, nfsvers"), "{said}");
        let (said, known) = said.split_once("; known are ").unwrap();
        assert!(!said.contains("10.0.0.2") && !said.contains("system_u"), "{said}");
        assert!(!known.split(", ").any(|name| text == name), "{known}");
    }
}

#[test]
fn nothing_is_smuggled_past_the_list() {
    for bad in [
        "hard,dev",
        "hard\0",
        "hard ",
        " hard",
        "HARD",
        "hard=1",
        "timeo=5\n",
        "timeo",
        "timeo=",
        "timeo=+5",
        "timeo=0x10",
        "timeo=010",
        "timeo=0",
        "timeo=2147483648",
        "timeo=99999999999999999999",
        "port=0",
        "port=65536",
        "port=2049=1",
        "rsize=512",
        "rsize=1025",
        "wsize=2097152",
        "nconnect=0",
        "nconnect=17",
        "max_connect=17",
        "proto=udp",
        "mountproto=rdma",
        "mountvers=2",
        "sec=",
        "sec=lkey",
        "sec=sys:",
        "sec=sys,dev",
        "xprtsec=ssl",
        "lookupcache=no",
        "write=fast",
        "acregmin=31536001",
        "fsc=tag",
        "",
        "=",
        "=hard",
        "o=hard",
        "-o",
        "x-mount.mkdir",
        "password",
        "vers=4.2,addr=1.2.3.4",
        "softreval",
        "user",
        "migration",
        "clientaddr",
        "lock=1",
    ] {
        let Err(error) = Settings::parse(&[bad.to_owned()]) else { panic!("{bad:?} was accepted") };
        assert!(matches!(error, Error::Invalid(_)));
    }
}

#[test]
fn messages_name_known_options_and_no_text_of_the_user() {
    let said = refusal("timeo=hunter2");
    assert_eq!(said, "mount option timeo must be a number from 1 to 2147483647");
    assert!(refusal("rsize=1000").contains("a multiple of 1024 from 1024 to 1048576"));
    assert!(refusal("mountvers=1").contains("must be 3"));
    assert!(refusal("proto=hunter2").contains("one of tcp, tcp6, rdma, rdma6"));
    assert!(refusal("sec=hunter2").contains("with colons between them"));
    assert!(refusal("hard=hunter2").contains("takes no value"));
    for text in ["hard,hunter2", "hard,hunter2=3", "hard,timeo=hunter2", "hard,sec=sys:hunter2"] {
        assert!(!refusal(text).contains("hunter2"), "{text}");
    }
    assert!(refusal("hard,,hunter2").starts_with("mount option number 2 is unknown"));
}

#[test]
fn options_that_fight_each_other() {
    for (text, why) in [
        ("hard,soft", "hard and soft contradict"),
        ("soft,softerr", "soft and softerr contradict"),
        ("vers=3,nfsvers=4.1", "vers and nfsvers contradict"),
        ("v3,vers=4.1", "v3 and vers contradict"),
        ("timeo=1,timeo=2", "timeo is given twice"),
        ("ro,rw", "ro and rw contradict"),
        ("lock,local_lock=all", "lock and local_lock contradict"),
        ("tcp,proto=rdma", "tcp and proto contradict"),
        ("proto=rdma,xprtsec=tls", "proto and xprtsec contradict"),
        ("vers=3,proto=tcp6,mountproto=udp", "proto and mountproto contradict"),
        ("acregmin=9,acregmax=3", "acregmin and acregmax contradict"),
        ("acdirmin=9,acdirmax=3", "acdirmin and acdirmax contradict"),
    ] {
        assert!(refusal(text).contains(why), "{text}: {}", refusal(text));
    }
    // Said twice is no contradiction.
    options("nolock,local_lock=all,vers=4.1,nfsvers=4.1,v4.1,tcp,proto=tcp,timeo=5,timeo=5");
}

#[test]
fn the_stronger_side_wins() {
    let merged = |weak: &str, strong: &str| settings(weak).overridden_by(settings(strong)).to_list();
    assert_eq!(merged("hard,timeo=5,vers=4.1", "soft,vers=3"), "vers=3,soft,timeo=5");
    assert_eq!(merged("vers=4,minorversion=1", "vers=4.2"), "vers=4.2");
    assert_eq!(merged("acregmin=1,acdirmax=2,noac", "actimeo=0"), "noac,actimeo=0");
    assert_eq!(merged("", "ro"), "ro");
    assert_eq!(merged("ro", ""), "ro");
    let connection = Connection::parse("vers=3,port=2050,mountport=3").unwrap();
    let merged = Settings::from(&connection).overridden_by(settings("port=2051,hard")).resolve().unwrap();
    assert_eq!(merged.connection().to_string(), "vers=3,port=2051,mountport=3");
}

#[test]
fn flags_of_the_mount_are_apart() {
    let plain = options("noexec,noatime").attributes(false);
    assert!(plain.nosuid && plain.nodev && plain.noexec && plain.noatime && !plain.read_only);
    let suid = options("suid,nodev").attributes(true);
    assert!(!suid.nosuid && suid.nodev && suid.read_only && !suid.noexec);
    assert!(options("ro").attributes(false).read_only && options("ro").is_read_only());
    for option in
        ["ro", "rw", "noexec", "exec", "suid", "nosuid", "nodev", "noatime", "relatime", "nodiratime"]
    {
        assert_eq!(options(option).data(Version::V42, FOUR, false).unwrap(), "vers=4.2,addr=10.0.0.1");
    }
}

#[test]
fn connections_leave_defaults_out() {
    for (text, shown) in [
        ("", ""),
        ("hard,timeo=5,rsize=1024,ro,nolock", ""),
        ("port=2049,xprtsec=none,vers=4", ""),
        ("rdma,port=20049", "proto=rdma"),
        ("rdma,port=2049", "proto=rdma,port=2049"),
        ("mountport=5,mountproto=udp", ""),
        ("vers=3,port=2049,mountport=5,mountproto=udp", "vers=3,port=2049,mountport=5,mountproto=udp"),
        ("xprtsec=tls,sec=krb5:null,vers=4.2,proto=tcp6", "vers=4.2,proto=tcp6,sec=krb5:none,xprtsec=tls"),
    ] {
        let connection = options(text).connection().clone();
        assert_eq!(connection.to_string(), shown);
        assert_eq!(Connection::parse(shown), Some(connection), "{text}");
    }
    for bad in [
        "hard",
        "vers=4",
        "port=2049",
        "port=5,vers=3",
        "vers=3,",
        "v3",
        "vers=3,lock",
        "mountport=5",
        "xprtsec=none",
    ] {
        assert_eq!(Connection::parse(bad), None, "{bad}");
    }
    let ports = |text| options(text).connection().port();
    assert_eq!(
        [ports(""), ports("rdma"), ports("vers=3"), ports("vers=3,port=9")],
        [Some(2049), Some(20049), None, Some(9)]
    );
}

#[test]
fn every_rule_can_be_met_and_reads_back() {
    for rule in rules::RULES {
        let value = match &rule.kind {
            rules::Kind::Flag(_) => String::new(),
            rules::Kind::Number { max, .. } => format!("={max}"),
            rules::Kind::Word(known) | rules::Kind::List(known) => format!("={}", known[0].0),
        };
        let read = settings(&format!("{}{value}", rule.name));
        assert_eq!(read.is_empty(), rule.slot == Slot::Nothing, "{}", rule.name);
        assert!(settings(&read.to_list()) == read, "{}", rule.name);
        assert!(read.resolve().is_ok(), "{}", rule.name);
    }
}

/// Any option of the table with a value from its range.
fn option() -> impl Strategy<Value = String> {
    (0..rules::RULES.len(), any::<u32>(), 0..8usize)
        .prop_map(|(which, number, at)| option_of(which, number, at))
}

fn option_of(which: usize, number: u32, at: usize) -> String {
    let rule = &rules::RULES[which];
    match &rule.kind {
        rules::Kind::Flag(_) => rule.name.to_owned(),
        rules::Kind::Number { min, max, step } => {
            let spread = (u64::from(*max) - u64::from(*min)).div_euclid(u64::from(*step)) + 1;
            format!("{}={}", rule.name, u64::from(*min) + u64::from(number) % spread * u64::from(*step))
        }
        rules::Kind::Word(known) | rules::Kind::List(known) => {
            format!("{}={}", rule.name, known[at % known.len()].0)
        }
    }
}

proptest! {
    #[test]
    fn what_passes_is_a_text_of_ours(list in proptest::collection::vec(option(), 0..8)) {
        let Ok(settings) = Settings::parse(&list) else { return Ok(()) };
        prop_assert!(Settings::parse_list(&settings.to_list()).unwrap() == settings);
        let Ok(options) = settings.resolve() else { return Ok(()) };
        let connection = options.connection();
        prop_assert_eq!(&Connection::parse(&connection.to_string()).unwrap(), connection);
        let json = serde_json::to_string(connection).unwrap();
        prop_assert_eq!(&serde_json::from_str::<Connection>(&json).unwrap(), connection);
        let address = if connection.family() == Some(Family::V6) { six() } else { FOUR };
        for version in connection.versions() {
            let data = options.data(version, address, true).unwrap();
            let keys: Vec<_> = data.split(',').map(|o| o.split('=').next().unwrap()).collect();
            let mut unique = keys.clone();
            unique.sort_unstable();
            unique.dedup();
            prop_assert_eq!(unique.len(), keys.len(), "{} says something twice", data);
            prop_assert!(keys[0] == "vers" && data.matches("addr=").count() == 1);
            prop_assert_eq!(version == Version::V3, keys.contains(&"nolock"));
            prop_assert!(!keys.iter().any(|k| matches!(*k, "dev" | "suid" | "exec" | "ro" | "context" | "lock")));
            // mount(2) takes one page.
            prop_assert!(data.len() < 4096);
        }
    }

    #[test]
    fn hostile_text_never_passes(text in "\\PC*|[a-z]{1,9}(=[a-z0-9,=\\x00 :]{0,9})?") {
        if let Ok(settings) = Settings::parse(std::slice::from_ref(&text)) {
            prop_assert!(!text.contains([',', '\0', ' ']) && text.matches('=').count() <= 1);
            prop_assert!(!settings.to_list().contains(['\0', ' ', '\n']));
        }
        let _ = Settings::parse_list(&text).and_then(Settings::resolve);
    }
}

#[test]
fn what_the_kernel_calls_otherwise_is_no_difference() {
    let options = Settings::parse_list("sec=none,timeo=9000,vers=4.2").unwrap().resolve().unwrap();
    assert_eq!(options.differ_from("rw,vers=4.2,hard,timeo=6000,sec=null", true), None);
    assert_eq!(options.differ_from("rw,vers=4.2,hard,timeo=600,sec=null", true), Some("timeo"));
    assert_eq!(options.differ_from("rw,vers=4.2,hard,timeo=600,sec=null", false), None);
    assert_eq!(options.differ_from("rw,vers=4.2,hard,timeo=6000,sec=sys", true), Some("sec"));
    assert_eq!(options.differ_from("rw,vers=4.1,hard,timeo=6000,sec=null", true), Some("vers"));
}
