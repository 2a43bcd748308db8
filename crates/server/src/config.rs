//! What an operator may set, with the defaults that make an empty file work.

mod pool;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use coffer_core::datastore::Datastore;
use coffer_core::flavor::Flavor;
use coffer_core::gate::Level;
use coffer_core::id::FlavorId;
use serde::Deserialize;

pub use pool::AddressPool;

/// The server's configuration file. Every field may be left out; an unknown one is an error.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where the API listens. Default `127.0.0.1:8779`.
    pub listen: SocketAddr,
    /// The base of the links in replies and of the catalogue in tokens, such as `http://127.0.0.1:8779`; from `listen`
    /// when it is not given.
    pub public_url: Option<String>,
    /// The addresses that instances are given, one each: a network of IPv4 or IPv6. Default `127.20.0.0/16`, of which
    /// every address works without set-up.
    pub address_pool: AddressPool,
    /// The first user id that engines run as, one for each address of the pool, where the provider may choose. Default
    /// 700000.
    pub engine_uid_base: u32,
    /// The sizes that instances may have.
    pub flavors: Vec<Flavor>,
    /// What each project may have.
    pub quota: QuotaLimits,
    /// The largest volume of one instance in gibibytes. Default 10, as in Trove.
    pub max_volume_gib: u32,
    /// The largest page of a list, and the usual one. Default 1000, unlike Trove's 20: clients that look an instance up by
    /// its name read one page only, so whatever is beyond it does not exist for them.
    pub page_size: u32,
    /// How long a token is valid, in hours. Default 24.
    pub token_hours: u32,
    /// How long a pre-image is kept after an upgrade succeeded, in hours. Default 24.
    pub preimage_keep_hours: u32,
    /// How far the gates of instances may go: `steered`, `shared` or `own`; each goes as far as its host allows. Default
    /// `steered`. Concerns engines when they are started next.
    pub gate: Level,
    /// How long new connections wait for an engine that is restarted, upgraded or has died, in seconds, before they are refused
    /// or the engine from before is let back in. An upgrade that has to load much may take longer. Default 60.
    pub hold_seconds: u64,
    /// For how long an agent may say nothing before it is told that it is silent, in seconds. Agents report every 10. Default 90.
    pub silent_seconds: u32,
    /// The region's name in replies and in the catalogue of tokens. Default `RegionOne`.
    pub region: String,
    /// The datastore of instances that ask for none. Default `redis`.
    pub default_datastore: Datastore,
    /// The catalogue of datastore versions; the built-in one when it is not given.
    pub catalogue: Option<PathBuf>,
}

/// What a project may have; -1 means any number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct QuotaLimits {
    /// Default 10.
    pub instances: i64,
    /// In gibibytes, all volumes together. Default 40.
    pub volumes: i64,
}

impl Default for QuotaLimits {
    fn default() -> Self {
        Self { instances: 10, volumes: 40 }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8779),
            public_url: None,
            address_pool: AddressPool::LOOPBACK,
            engine_uid_base: 700_000,
            flavors: default_flavors(),
            quota: QuotaLimits::default(),
            max_volume_gib: 10,
            page_size: 1000,
            token_hours: 24,
            preimage_keep_hours: 24,
            gate: Level::Steered,
            hold_seconds: 60,
            silent_seconds: 90,
            region: "RegionOne".to_owned(),
            default_datastore: Datastore::Redis,
            catalogue: None,
        }
    }
}

fn default_flavors() -> Vec<Flavor> {
    [("1", 512, 1), ("2", 1024, 1), ("3", 2048, 2), ("4", 4096, 2), ("5", 8192, 4), ("6", 16384, 8)]
        .into_iter()
        .map(|(id, ram_mib, vcpus)| Flavor {
            id: FlavorId::from(id),
            name: format!("c{vcpus}.m{ram_mib}"),
            ram_mib,
            vcpus,
        })
        .collect()
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    Read(#[from] std::io::Error),
    #[error("{path}: {source}")]
    Parse { path: PathBuf, source: Box<toml::de::Error> },
    #[error("{path}: {what}; hint: {hint}")]
    Unusable { path: PathBuf, what: String, hint: &'static str },
}

impl Config {
    /// Reads a file.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let text = fs_err::read_to_string(path)?;
        let config: Self =
            toml::from_str(&text).map_err(|e| Error::Parse { path: path.to_owned(), source: Box::new(e) })?;
        config.check().map_err(|(what, hint)| Error::Unusable { path: path.to_owned(), what, hint })?;
        Ok(config)
    }

    fn check(&self) -> Result<(), (String, &'static str)> {
        if self.flavors.is_empty() {
            return Err(("there are no flavors".to_owned(), "leave 'flavors' out to have the usual ones"));
        }
        for (i, flavor) in self.flavors.iter().enumerate() {
            if self.flavors.iter().take(i).any(|other| other.id == flavor.id) {
                return Err((format!("flavor {} is there twice", flavor.id), "give every flavor an id of its own"));
            }
            if flavor.ram_mib == 0 || flavor.vcpus == 0 {
                return Err((format!("flavor {} has no memory or no processor", flavor.id), "give it at least 1 each"));
            }
        }
        if !(1..=3600).contains(&self.hold_seconds) {
            return Err((format!("hold_seconds is {}", self.hold_seconds), "it must be from 1 to 3600"));
        }
        if !(15..=3600).contains(&self.silent_seconds) {
            return Err((format!("silent_seconds is {}", self.silent_seconds), "it must be from 15 to 3600"));
        }
        for (name, value) in [("page_size", self.page_size), ("token_hours", self.token_hours)] {
            if value == 0 {
                return Err((format!("{name} is 0"), "it must be at least 1"));
            }
        }
        Ok(())
    }

    /// The base of links in replies.
    pub fn public_url(&self) -> String {
        self.public_url.clone().unwrap_or_else(|| format!("http://{}", self.listen))
    }
}

#[cfg(test)]
mod tests {
    use super::Config;

    #[test]
    fn an_empty_file_is_a_working_configuration() {
        let config: Config = toml::from_str("").expect("empty file");
        assert_eq!(config.public_url(), "http://127.0.0.1:8779");
        assert_eq!(config.flavors.len(), 6);
        config.check().expect("the defaults are sound");
    }

    #[test]
    fn a_field_that_is_unknown_is_named() {
        let error = toml::from_str::<Config>("page_sice = 3").expect_err("a typo");
        assert!(error.to_string().contains("page_sice"), "{error}");
    }

    #[test]
    fn an_address_pool_is_of_ipv4_or_ipv6() {
        for pool in ["127.30.0.0/16", "fd00:c0ff::/64", "::1/128"] {
            let config: Config = toml::from_str(&format!("address_pool = '{pool}'")).expect(pool);
            assert_eq!(config.address_pool.to_string(), pool);
        }
    }

    #[test]
    fn a_bad_address_pool_is_refused_with_its_place_and_what_to_write_instead() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("coffer.toml");
        fs_err::write(&path, "page_size = 10\naddress_pool = 'fd00:c0ff::1/64'\n").expect("a file");
        let error = Config::load(&path).expect_err("no network").to_string();
        for part in ["coffer.toml", "line 2", "is an address in it; hint: write fd00:c0ff::/64"] {
            assert!(error.contains(part), "{error}");
        }
    }
}
