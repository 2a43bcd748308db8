//! The addresses that instances are given.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::Deserialize;

/// How many addresses of a network are given at most, counted from its beginning: as many as the largest network of IPv4
/// has. Each stands for the user id of an engine, and of those there are 32 bits, where a /64 has 64.
const MOST: u32 = (1 << 24) - 2;

const EXAMPLES: &str = "127.20.0.0/16 or fd00:c0ff::/64";

/// A network, such as `127.20.0.0/16` or `fd00:c0ff::/64`. Its first address is never given to anybody, unless it is the
/// only one (`::1/128`); nor is the last one of IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct AddressPool {
    network: IpAddr,
    prefix: u8,
}

impl AddressPool {
    /// `127.20.0.0/16`, of which every address works without set-up.
    pub(super) const LOOPBACK: Self = Self { network: IpAddr::V4(Ipv4Addr::new(127, 20, 0, 0)), prefix: 16 };

    /// The lowest address that may be given to an instance.
    pub fn first(self) -> IpAddr {
        self.at(u32::from(self.hosts() > 0))
    }

    /// The highest address that may be given to an instance.
    pub fn last(self) -> IpAddr {
        let hosts = if self.network.is_ipv4() { self.hosts() - 1 } else { self.hosts() };
        self.at(hosts.min(MOST))
    }

    /// Which one of the pool this is, counted from 0; `None` for an address outside of it.
    pub fn index(self, address: IpAddr) -> Option<u32> {
        if !(self.first()..=self.last()).contains(&address) {
            return None;
        }
        match (self.first(), address) {
            (IpAddr::V4(first), IpAddr::V4(address)) => Some(address.to_bits() - first.to_bits()),
            (IpAddr::V6(first), IpAddr::V6(address)) => u32::try_from(address.to_bits() - first.to_bits()).ok(),
            _ => None,
        }
    }

    /// How far the last address of the network is from its first, as far as a number of 32 bits can say it.
    fn hosts(self) -> u32 {
        let bits = if self.network.is_ipv4() { 32 } else { 128 };
        u32::MAX.checked_shr(32_u32.saturating_sub(bits - u32::from(self.prefix))).unwrap_or(0)
    }

    fn at(self, host: u32) -> IpAddr {
        match self.network {
            IpAddr::V4(network) => Ipv4Addr::from_bits(network.to_bits() + host).into(),
            IpAddr::V6(network) => Ipv6Addr::from_bits(network.to_bits() + u128::from(host)).into(),
        }
    }
}

impl fmt::Display for AddressPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

impl FromStr for AddressPool {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let (address, prefix) = s.split_once('/').ok_or_else(|| {
            format!("'{s}' is no network, for it has no prefix; hint: write a network such as {EXAMPLES}")
        })?;
        let address: IpAddr = address.parse().map_err(|_| {
            format!("'{address}' is no address of IPv4 or IPv6; hint: write a network such as {EXAMPLES}")
        })?;
        let (family, longest) = if address.is_ipv4() { ("IPv4", 30) } else { ("IPv6", 128) };
        let prefix = prefix.parse().ok().filter(|prefix| (8..=longest).contains(prefix)).ok_or_else(|| {
            format!(
                "'{prefix}' is no prefix of a pool of {family}; hint: write a number from 8 to {longest}, as in {EXAMPLES}"
            )
        })?;
        let pool = Self { network: network_of(address, prefix), prefix };
        if pool.network != address {
            return Err(format!("'{s}' is no network, for {address} is an address in it; hint: write {pool}"));
        }
        match why_useless(pool.first()) {
            Some((why, instead)) => Err(format!("'{s}' {why}; hint: write {instead}")),
            None => Ok(pool),
        }
    }
}

impl TryFrom<String> for AddressPool {
    type Error = String;
    fn try_from(s: String) -> Result<Self, Self::Error> {
        s.parse()
    }
}

fn network_of(address: IpAddr, prefix: u8) -> IpAddr {
    let prefix = u32::from(prefix);
    match address {
        IpAddr::V4(address) => {
            let host = u32::MAX.checked_shr(prefix).unwrap_or(0);
            Ipv4Addr::from_bits(address.to_bits() & !host).into()
        }
        IpAddr::V6(address) => {
            let host = u128::MAX.checked_shr(prefix).unwrap_or(0);
            Ipv6Addr::from_bits(address.to_bits() & !host).into()
        }
    }
}

/// Why no engine could serve at such an address alone, and what to write instead.
fn why_useless(address: IpAddr) -> Option<(&'static str, String)> {
    let another = || format!("a network such as {EXAMPLES}");
    match address {
        _ if address.is_multicast() => Some(("is for multicast", another())),
        IpAddr::V6(address) if address.is_unspecified() => Some(("stands for every address there is", another())),
        IpAddr::V6(address) if address.is_unicast_link_local() => {
            Some(("is link-local, where an address means nothing without an interface", another()))
        }
        IpAddr::V6(address) if address.to_ipv4_mapped().is_some() => {
            Some(("stands for addresses of IPv4", "them as IPv4, such as 127.20.0.0/16".to_owned()))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::AddressPool;

    fn pool(text: &str) -> AddressPool {
        text.parse().expect(text)
    }

    #[test]
    fn a_pool_has_a_first_and_a_last_address_and_a_number_for_each() {
        for (text, first, last, number) in [
            ("127.20.0.0/16", "127.20.0.1", "127.20.255.254", 65_533),
            ("10.0.0.0/8", "10.0.0.1", "10.255.255.254", 16_777_213),
            ("10.0.0.4/30", "10.0.0.5", "10.0.0.6", 1),
            ("fd00:c0ff::/112", "fd00:c0ff::1", "fd00:c0ff::ffff", 65_534),
            ("fd00:c0ff::ff00/120", "fd00:c0ff::ff01", "fd00:c0ff::ffff", 254),
            ("::1/128", "::1", "::1", 0),
            ("fd00:c0ff::2/127", "fd00:c0ff::3", "fd00:c0ff::3", 0),
        ] {
            let pool = pool(text);
            assert_eq!((pool.first().to_string(), pool.last().to_string()), (first.to_owned(), last.to_owned()));
            assert_eq!((pool.index(pool.first()), pool.index(pool.last())), (Some(0), Some(number)), "{text}");
            assert_eq!(pool.to_string(), text);
        }
    }

    #[test]
    fn an_address_of_another_network_or_family_has_no_number() {
        for (text, other) in [
            ("127.20.0.0/16", "127.21.0.1"),
            ("127.20.0.0/16", "127.20.0.0"),
            ("127.20.0.0/16", "::ffff:127.20.0.1"),
            ("fd00:c0ff::/64", "fd00:c0ff::"),
            ("fd00:c0ff::/64", "fd00:c0ff:0:1::1"),
            ("fd00:c0ff::/64", "127.20.0.1"),
        ] {
            assert_eq!(pool(text).index(other.parse().expect(other)), None, "{other} in {text}");
        }
    }

    #[test]
    fn of_a_network_that_is_larger_than_any_of_ipv4_the_beginning_is_given() {
        for text in ["fd00:c0ff::/64", "fd00:c0ff::/32", "fd00:c0ff::/104"] {
            let pool = pool(text);
            assert_eq!(
                (pool.first().to_string(), pool.last().to_string()),
                ("fd00:c0ff::1".into(), "fd00:c0ff::ff:fffe".into())
            );
            assert_eq!(pool.index(pool.last()), Some(16_777_213), "as far as in 10.0.0.0/8");
        }
    }

    #[test]
    fn a_bad_pool_is_told_what_is_wrong_and_what_to_write_instead() {
        for (bad, why) in [
            (
                "127.20.0.0",
                "'127.20.0.0' is no network, for it has no prefix; hint: write a network such as 127.20.0.0/16 or fd00:c0ff::/64",
            ),
            (
                "x/16",
                "'x' is no address of IPv4 or IPv6; hint: write a network such as 127.20.0.0/16 or fd00:c0ff::/64",
            ),
            (
                "127.20.0.0/31",
                "'31' is no prefix of a pool of IPv4; hint: write a number from 8 to 30, as in 127.20.0.0/16 or fd00:c0ff::/64",
            ),
            (
                "fd00::/129",
                "'129' is no prefix of a pool of IPv6; hint: write a number from 8 to 128, as in 127.20.0.0/16 or fd00:c0ff::/64",
            ),
            (
                "127.20.0.1/16",
                "'127.20.0.1/16' is no network, for 127.20.0.1 is an address in it; hint: write 127.20.0.0/16",
            ),
            (
                "fd00:c0ff::1/64",
                "'fd00:c0ff::1/64' is no network, for fd00:c0ff::1 is an address in it; hint: write fd00:c0ff::/64",
            ),
            (
                "::ffff:127.20.0.0/112",
                "'::ffff:127.20.0.0/112' stands for addresses of IPv4; hint: write them as IPv4, such as 127.20.0.0/16",
            ),
            (
                "fe80::/64",
                "'fe80::/64' is link-local, where an address means nothing without an interface; hint: write a network such as 127.20.0.0/16 or fd00:c0ff::/64",
            ),
            (
                "ff05::/64",
                "'ff05::/64' is for multicast; hint: write a network such as 127.20.0.0/16 or fd00:c0ff::/64",
            ),
            (
                "::/128",
                "'::/128' stands for every address there is; hint: write a network such as 127.20.0.0/16 or fd00:c0ff::/64",
            ),
        ] {
            assert_eq!(bad.parse::<AddressPool>().expect_err(bad), why);
        }
        for bad in ["", "/", "/64", "fd00::/", "fd00::/-1", "fd00::/7", "127.20.0.0/7", "[fd00::]/64", "fe80::%eth0/64"]
        {
            let why = bad.parse::<AddressPool>().expect_err(bad);
            assert!(why.contains("; hint: write a n"), "{bad}: {why}");
        }
    }
}
