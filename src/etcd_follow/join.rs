//! Finding out which cluster it is and who we are in it, and remembering that.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use ringraft_transport::etcd::http::Version;
use serde::{Deserialize, Serialize};

use super::FollowError;
use super::members::{Member, Members, address_of};
use super::net::get;

/// Who we are in which cluster; kept in the data directory.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Place {
    /// The cluster's id.
    pub(super) cluster: u64,
    /// Our id.
    pub(super) member: u64,
    /// The version of the oldest member.
    pub(super) version: String,
    /// The cluster's own version.
    pub(super) cluster_version: String,
    /// All members.
    pub(super) members: Vec<Member>,
}

#[derive(Deserialize)]
struct Versions {
    etcdserver: String,
    etcdcluster: String,
}

/// Asks the members of the cluster who belongs to it; `ours` is where they reach us.
pub(super) fn ask(peers: &[String], ours: &str, learners_max: usize) -> Result<Place, FollowError> {
    let mut problems = Vec::new();
    let mut stranger = None;
    for url in peers {
        let address = address_of(url).map_err(|why| FollowError::Url { why })?;
        let answer = get(&address, "/members").map_err(|error| error.to_string()).and_then(|(answer, body)| {
            let cluster = answer.cluster.ok_or("it does not say which cluster it belongs to")?;
            let members = Members::parse(&body, learners_max).map_err(|error| format!("its members: {error}"))?;
            Ok((cluster, members))
        });
        match answer {
            Err(why) => problems.push(format!("{url}: {why}")),
            Ok((cluster, members)) => match members.with_url(ours).map(|member| member.id) {
                Some(member) => {
                    let (version, cluster_version) = versions(&members, member)?;
                    let members = members.iter().map(|(_, member)| member.clone()).collect();
                    return Ok(Place { cluster: cluster.0, member, version, cluster_version, members });
                }
                None => stranger = Some(cluster.0),
            },
        }
    }
    match stranger {
        Some(cluster) => Err(FollowError::NotAMember { cluster, url: ours.to_owned() }),
        None => Err(FollowError::Unreachable { why: problems.join("; ") }),
    }
}

/// The version of the oldest member, and the cluster's.
fn versions(members: &Members, ours: u64) -> Result<(String, String), FollowError> {
    let (mut oldest, mut cluster, mut problems) = (None, "not_decided".to_owned(), BTreeSet::new());
    for (_, member) in members.iter().filter(|(id, _)| id.0 != ours) {
        for address in super::member::addresses(&member.peer_urls) {
            let versions = get(&address, "/version").map_err(|error| error.to_string()).and_then(|(_, body)| {
                let versions: Versions = serde_json::from_str(&body).map_err(|error| error.to_string())?;
                let server = Version::parse(&versions.etcdserver).ok_or("not a version")?;
                Ok((server, versions.etcdcluster))
            });
            match versions {
                Ok((server, said)) => {
                    oldest = Some(oldest.map_or(server, |oldest: Version| oldest.min(server)));
                    cluster = said;
                    break;
                }
                Err(why) => drop(problems.insert(format!("{address}: {why}"))),
            }
        }
    }
    let why = || problems.into_iter().collect::<Vec<_>>().join("; ");
    Ok((oldest.ok_or_else(|| FollowError::Unreachable { why: why() })?.to_string(), cluster))
}

fn file(dir: &Path) -> PathBuf {
    dir.join("member.json")
}

/// What the directory says of us; nothing if it is new.
pub(super) fn load(dir: &Path) -> Result<Option<Place>, FollowError> {
    let path = file(dir);
    match fs::read(&path) {
        Ok(bytes) => match serde_json::from_slice(&bytes) {
            Ok(place) => Ok(Some(place)),
            Err(error) => Err(FollowError::File { path, source: io::Error::other(error) }),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(FollowError::File { path, source }),
    }
}

/// Makes the directory say who we are.
pub(super) fn save(dir: &Path, place: &Place) -> Result<(), FollowError> {
    let path = file(dir);
    let text = serde_json::to_vec_pretty(place).expect("strings and numbers");
    let write = || -> io::Result<()> {
        let aside = path.with_extension("new");
        let mut file = File::create(&aside)?;
        file.write_all(&text)?;
        file.sync_all()?;
        fs::rename(&aside, &path)?;
        File::open(dir)?.sync_all()
    };
    write().map_err(|source| FollowError::File { path: path.clone(), source })
}
