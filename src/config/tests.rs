use clap::{Args as _, Command};

use super::*;

fn no_env(_: &str) -> Option<OsString> {
    None
}

/// The configuration of these flags, and of nothing else.
fn flags(list: &[(&str, &str)]) -> Result<ServeConfig, ConfigError> {
    let words = list.iter().map(|(name, value)| format!("--{name}={value}"));
    let command = ServeArgs::augment_args(Command::new("serve").no_binary_name(true));
    let matches = command.try_get_matches_from(words).expect("flags that exist");
    let args = <ServeArgs as clap::FromArgMatches>::from_arg_matches(&matches).expect("flags that exist");
    load_with(&args, &no_env)
}

#[test]
fn defaults_stand() {
    let config = flags(&[]).unwrap();
    assert_eq!(config.node_id, 1);
    assert_eq!(config.peers, [PeerAddress { id: 1, address: "127.0.0.1:7101".into() }]);
    assert_eq!(config.advertise_peer, "127.0.0.1:7101");
    assert_eq!((config.tick, config.heartbeat_ticks, config.election_ticks), (Duration::from_millis(100), 1, 10));
    assert_eq!((config.priority, config.segment_size, config.io), (4, 64 << 20, IoChoice::Auto));
    assert_eq!(config.wal_root(), Path::new("ringraft-data"));
    assert!(config.shards >= 1);
    assert!(config.settings.iter().all(|setting| setting.source == Source::Default));
    assert_eq!(config.settings.len(), FIELDS.len());
    assert!(config.explain().contains("tick                     100ms                    default\n"));
}

#[test]
fn cluster_ids_differ_by_name() {
    let id = |name| flags(&[("cluster", name)]).unwrap().cluster_id();
    assert_eq!(id("a"), id("a"));
    assert_ne!(id("a"), id("b"));
}

#[test]
fn each_source_wins_over_the_next() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(
        file.path(),
        "# a comment\ntick = \"30ms\"\nelection-ticks = 30\ngroups = 30\nio = \"portable\"\n\n[peers]\n1 = \"a:1\"\n2 = \"b:1\"\n",
    )
    .unwrap();
    let path = file.path().to_owned();
    let env = |name: &str| match name {
        "RINGRAFT_CONFIG" => Some(path.clone().into_os_string()),
        "RINGRAFT_TICK" => Some("20ms".into()),
        "RINGRAFT_ELECTION_TICKS" => Some("20".into()),
        "RINGRAFT_GROUPS" => Some("".into()),
        _ => None,
    };
    let args = ServeArgs { tick: Some("10ms".into()), ..ServeArgs::default() };
    let config = load_with(&args, &env).unwrap();
    let source = |name: &str| config.settings.iter().find(|setting| setting.name == name).unwrap().source.clone();
    assert_eq!((config.tick, source("tick")), (Duration::from_millis(10), Source::Flag));
    assert_eq!((config.election_ticks, source("election-ticks")), (20, Source::Env));
    assert_eq!((config.groups, source("groups")), (30, Source::File { path: path.clone(), line: 4 }));
    assert_eq!(config.peers.len(), 2);
    assert_eq!(source("peers"), Source::File { path: path.clone(), line: 7 });
    assert_eq!((config.io, source("io")), (IoChoice::Portable, Source::File { path: path.clone(), line: 5 }));
    assert_eq!(config.advertise_peer, "a:1");
    assert_eq!((config.requests_max, source("requests-max")), (65536, Source::Default));

    let args = ServeArgs { config: Some("/nowhere/at/all".into()), ..ServeArgs::default() };
    let error = load_with(&args, &env).unwrap_err().to_string();
    assert!(error.contains("/nowhere/at/all") && error.contains("--config"), "{error}");
}

#[test]
fn files_are_read_strictly() {
    let check = |text: &str, want: &str| {
        let error = file::parse(Path::new("ring.toml"), text).unwrap_err().to_string();
        assert!(error.starts_with(want), "{text}\n{error}");
    };
    check("node-id = 1\n\ntik = \"1s\"\n", "ring.toml line 3: unknown key 'tik'; remove it, or use one of: node-id, ");
    check("node_id = 1\n", "ring.toml line 1: unknown key 'node_id'; write 'node-id'");
    check("\n[limits]\nrequests-max = 1\n", "ring.toml line 2: unknown key 'limits'");
    check("node-id = 1\nnode-id = 2\n", "ring.toml line 2: duplicate key");
    check("tick = \n", "ring.toml line 1: ");
    check("a = 1\nnode-id == 1\n", "ring.toml line 2: ");
    check("\ntick = 1.5\n", "ring.toml line 2: tick: a value of type float");
    check("\ntick = true\n", "ring.toml line 2: tick: a value of type boolean");
    check("[peers]\n1 = 2\n", "ring.toml line 1: peers: peer 1 needs an address");
}

#[test]
fn a_bad_value_in_the_file_names_its_line() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "\n\ntick = \"10\"\n").unwrap();
    let args = ServeArgs { config: Some(file.path().to_owned()), ..ServeArgs::default() };
    let error = load_with(&args, &no_env).unwrap_err().to_string();
    assert_eq!(
        error,
        format!(
            "tick = '10' ({} line 3): is not a duration; write a whole number and a unit, \
             like 10ms (ns, us, ms, s, min, h)",
            file.path().display()
        )
    );
}

#[test]
fn each_rule_is_held() {
    let two = ("peers", "1=a:1,2=b:1");
    let cases: &[(&[(&str, &str)], &str)] = &[
        (&[("node-id", "0")], "node-id = '0' (flag --node-id): must be a whole number from 1 to "),
        (&[("node-id", "one")], "node-id = 'one' (flag --node-id): must be a whole number"),
        (&[("cluster", "")], "cluster = '' (flag --cluster): must have 1 to 128 bytes"),
        (&[("cluster", "a\nb")], "cluster = 'a\nb' (flag --cluster): has control characters"),
        (&[("data-dir", "")], "data-dir = '' (flag --data-dir): is empty"),
        (&[("listen-client", "7001")], "listen-client = '7001' (flag --listen-client): is not HOST:PORT"),
        (&[("listen-client", "a:70000")], "listen-client = 'a:70000' (flag --listen-client): is not HOST:PORT"),
        (&[("listen-client", "::1:7")], "listen-client = '::1:7' (flag --listen-client): is not HOST:PORT"),
        (&[("listen-client", "127.0.0.1:7101")], "listen-client = '127.0.0.1:7101' (flag --listen-client): is also"),
        (&[("listen-peer", "")], "listen-peer = '' (flag --listen-peer): is not HOST:PORT"),
        (&[("listen-peer", "a:0"), two], "listen-peer = 'a:0' (flag --listen-peer): any free port cannot"),
        (&[("advertise-peer", "0.0.0.0:1")], "advertise-peer = '0.0.0.0:1' (flag --advertise-peer): is the address"),
        (&[("advertise-peer", "a:0")], "advertise-peer = 'a:0' (flag --advertise-peer): has port 0"),
        (&[("advertise-peer", "c:1"), two], "advertise-peer = 'c:1' (flag --advertise-peer): differs from"),
        (&[("peers", "a:1")], "peers = 'a:1' (flag --peers): 'a:1' has no '='; write members as"),
        (&[("peers", "x=a:1")], "peers = 'x=a:1' (flag --peers): 'x=a:1' does not begin with a node id"),
        (&[("peers", "1=a")], "peers = '1=a' (flag --peers): '1=a': the address is not HOST:PORT"),
        (&[("peers", "1=a:1,1=b:1")], "peers = '1=a:1,1=b:1' (flag --peers): names node 1 twice"),
        (&[("peers", "1=a:1,2=a:1")], "peers = '1=a:1,2=a:1' (flag --peers): gives nodes 1 and 2 the same"),
        (&[("node-id", "3"), two], "peers = '1=a:1,2=b:1' (flag --peers): does not name this node; add '3=HOST"),
        (&[("shards", "0")], "shards = '0' (flag --shards): must be a whole number from 1 to 1024, or 'auto'"),
        (&[("io", "epoll")], "io = 'epoll' (flag --io): must be auto, uring or portable"),
        (&[("groups", "0")], "groups = '0' (flag --groups): must be a whole number from 1 to 1048576"),
        (&[("tick", "100")], "tick = '100' (flag --tick): is not a duration; write a whole number and a unit"),
        (&[("tick", "1us")], "tick = '1us' (flag --tick): is out of bounds; choose from 1ms to 10s"),
        (&[("heartbeat-ticks", "0")], "heartbeat-ticks = '0' (flag --heartbeat-ticks): must be a whole"),
        (&[("heartbeat-ticks", "6")], "election-ticks = '10' (default): is less than twice heartbeat-ticks (6); set"),
        (&[("election-ticks", "1")], "election-ticks = '1' (flag --election-ticks): must be a whole number from 2"),
        (&[("priority", "5")], "priority = '5' (flag --priority): must be a whole number from 0 to 4"),
        (
            &[("segment-size", "1MiB")],
            "segment-size = '1MiB' (flag --segment-size): is out of bounds; choose from 4MiB",
        ),
        (&[("segment-size", "64MB")], "segment-size = '64MB' (flag --segment-size): is not a size; write a whole"),
        (&[("segment-size", "5000001B")], "segment-size = '5000001B' (flag --segment-size): is not a multiple of 4KiB"),
        (&[("snapshot-every", "5")], "snapshot-every = '5' (flag --snapshot-every): must be a whole number from 100"),
        (&[("request-timeout", "0s")], "request-timeout = '0s' (flag --request-timeout): is out of bounds"),
        (&[("client-connections-max", "0")], "client-connections-max = '0' (flag --client-connections-max): must be"),
        (&[("requests-max", "0")], "requests-max = '0' (flag --requests-max): must be a whole number"),
        (&[("peer-queue-size", "1B")], "peer-queue-size = '1B' (flag --peer-queue-size): is out of bounds; choose"),
    ];
    for (list, want) in cases {
        let error = flags(list).expect_err(want).to_string();
        assert!(error.starts_with(want), "{error}\n{want}");
    }
    for list in [
        &[two][..],
        &[("peers", " 2=b:1 , 1=[::1]:1 ,")],
        &[two, ("advertise-peer", "a:1"), ("listen-peer", "0.0.0.0:1")],
        &[("listen-peer", "127.0.0.1:0"), ("listen-client", "127.0.0.1:0")],
        &[("shards", "4"), ("wal-dir", "/wal")],
        &[("priority", "0")],
    ] {
        flags(list).unwrap();
    }
}

#[test]
fn every_setting_has_a_flag_and_its_help_names_variable_and_default() {
    let command = ServeArgs::augment_args(Command::new("serve"));
    for field in &FIELDS {
        assert_eq!(ServeArgs::default().value(field.name), None);
        let flag = command.get_arguments().find(|arg| arg.get_long() == Some(field.name)).expect(field.name);
        let help = flag.get_long_help().or(flag.get_help()).expect(field.name).to_string();
        assert!(help.contains(&format!("[env: {}]", env_name(field.name))), "{help}");
        if !field.default.is_empty() {
            assert!(help.contains(&format!("[default: {}]", field.default)), "{help}");
        }
    }
}
