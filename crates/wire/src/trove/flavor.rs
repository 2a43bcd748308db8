//! Flavors.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::trove::link::{Link, Links};

/// `{"flavors": [...]}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FlavorsBody {
    pub flavors: Vec<Flavor>,
}

/// `{"flavor": ...}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FlavorBody {
    pub flavor: Flavor,
}

/// A size of instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Flavor {
    /// The id as a number, or null where it is none; clients then take `str_id`.
    pub id: Option<u64>,
    pub links: Vec<Link>,
    pub name: String,
    /// In MiB.
    pub ram: u32,
    pub vcpus: u32,
    /// Volumes are chosen apart from the flavor.
    pub disk: u32,
    pub ephemeral: u32,
    pub str_id: String,
}

impl Flavor {
    /// How a flavor is shown.
    pub fn of(flavor: &coffer_core::flavor::Flavor, links: Links<'_>) -> Self {
        let id = &flavor.id.0;
        let numeric = id.bytes().all(|b| b.is_ascii_digit()) && !id.starts_with('0');
        Self {
            id: numeric.then(|| id.parse().ok()).flatten(),
            links: links.of("flavors", id),
            name: flavor.name.clone(),
            ram: flavor.ram_mib,
            vcpus: flavor.vcpus,
            disk: 0,
            ephemeral: 0,
            str_id: id.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use coffer_core::flavor::Flavor as Core;

    use super::Flavor;
    use crate::trove::Links;

    #[test]
    fn the_number_of_a_flavor_is_there_only_where_its_id_is_one() {
        let id_of = |id: &str| {
            let flavor = Core { id: id.into(), name: "x".to_owned(), ram_mib: 512, vcpus: 1 };
            Flavor::of(&flavor, Links { host: "h", project: "p" }).id
        };
        assert_eq!(id_of("1"), Some(1));
        assert_eq!(id_of("01"), None);
        assert_eq!(id_of("db.small"), None);
        assert_eq!(id_of("99999999999999999999999999"), None);
    }
}
