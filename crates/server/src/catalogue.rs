//! The datastore versions, held in memory: every reply names one, and there are few.

use std::sync::{Arc, PoisonError, RwLock};

use coffer_core::datastore::{Datastore, Number, Version};
use coffer_core::id::{Digest, VersionId};
use coffer_store::Store;
use uuid::Uuid;

/// The namespace of the ids that are made from names, so that they are the same in every Coffer.
const NAMESPACE: Uuid = Uuid::from_u128(0x8f1d_6c5e_2b0a_4e39_9d57_c0ff_e700_0001);

/// One entry of the catalogue file, as far as the control plane needs to know it.
#[derive(Clone, Debug, PartialEq)]
pub struct CatalogueSeed {
    pub datastore: Datastore,
    /// The entry's version: a number, or the beginning of one. The version's id is made from it.
    pub name: String,
    /// The number of the image that is here; until there is one, what the entry says.
    pub number: Number,
    /// The image, where the catalogue says which one it has to be.
    pub image: Option<Digest>,
    /// Whether it is active when it is first seen; afterwards that is the operator's.
    pub active: bool,
    /// Whether it becomes the default when it is first seen and there is none.
    pub default: bool,
    /// The entry itself. Opaque to all but `coffer-image`.
    pub sources: serde_json::Value,
}

/// The id of a datastore, made from its name.
pub fn datastore_id(datastore: Datastore) -> Uuid {
    Uuid::new_v5(&NAMESPACE, datastore.name().as_bytes())
}

/// The id of a version, made from its name in the catalogue file.
pub fn version_id(datastore: Datastore, name: &str) -> VersionId {
    VersionId(Uuid::new_v5(&NAMESPACE, format!("{datastore}/{name}").as_bytes()))
}

/// The versions as they were last read.
#[derive(Debug)]
pub(crate) struct Catalogue {
    versions: RwLock<Arc<[Arc<Version>]>>,
}

impl Catalogue {
    /// Writes the entries of the catalogue file into the store and reads what is there then.
    pub(crate) async fn seed(store: &Store, seeds: Vec<CatalogueSeed>) -> Result<Self, coffer_store::Error> {
        let mut write = store.write().await?;
        for seed in seeds {
            let version = Version {
                id: version_id(seed.datastore, &seed.name),
                datastore: seed.datastore,
                name: seed.name,
                number: seed.number,
                image: seed.image,
                active: seed.active,
                default: seed.default,
                sources: seed.sources,
            };
            write.seed_version(&version).await?;
        }
        write.name_series().await?;
        write.commit().await?;
        let catalogue = Self { versions: RwLock::new(Arc::new([])) };
        catalogue.reload(store).await?;
        Ok(catalogue)
    }

    /// Reads the versions again, after something was written.
    pub(crate) async fn reload(&self, store: &Store) -> Result<(), coffer_store::Error> {
        let mut versions: Vec<_> = store.versions().await?.into_iter().map(Arc::new).collect();
        versions.sort_by(|a, b| (a.datastore, a.number, &a.name).cmp(&(b.datastore, b.number, &b.name)));
        *self.versions.write().unwrap_or_else(PoisonError::into_inner) = versions.into();
        Ok(())
    }

    /// All versions: by datastore, then by number.
    pub(crate) fn all(&self) -> Arc<[Arc<Version>]> {
        Arc::clone(&self.versions.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The version with that id.
    pub(crate) fn version(&self, id: VersionId) -> Option<Arc<Version>> {
        self.all().iter().find(|v| v.id == id).map(Arc::clone)
    }

    /// The version of that name; else the one with that number; else the one that the catalogue file has under that name, which
    /// may be a series; else the only one whose number begins so, as `8.0`.
    pub(crate) fn named(&self, datastore: Datastore, name: &str) -> Option<Arc<Version>> {
        let all = self.all();
        let of_datastore = || all.iter().filter(|v| v.datastore == datastore);
        let exactly = of_datastore().find(|v| v.name == name);
        let numbered = || of_datastore().find(|v| v.number.to_string() == name);
        let listed = || of_datastore().find(|v| v.id == version_id(datastore, name));
        let series = || {
            let mut matching = of_datastore().filter(|v| v.number.to_string().starts_with(&format!("{name}.")));
            matching.next().filter(|_| matching.next().is_none())
        };
        exactly.or_else(numbered).or_else(listed).or_else(series).map(Arc::clone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_series_of_the_catalogue_is_found_by_its_name_also_when_it_has_a_number_and_others_begin_so() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(&coffer_store::Location::File(dir.path().join("coffer.db"))).await.expect("a store");
        let seed = |name: &str, number: &str| CatalogueSeed {
            datastore: Datastore::Mysql,
            name: name.to_owned(),
            number: number.parse().expect("a number"),
            image: None,
            active: true,
            default: false,
            sources: serde_json::Value::Null,
        };
        let seeds = vec![seed("9.7.2", "9.7.2"), seed("9.7", "9.7.4"), seed("8.4.5", "8.4.5"), seed("8.4.6", "8.4.6")];
        let catalogue = Catalogue::seed(&store, seeds).await.expect("a catalogue");
        let found = |name| catalogue.named(Datastore::Mysql, name).map(|version| version.number.to_string());
        assert_eq!(found("9.7").as_deref(), Some("9.7.4"));
        assert_eq!(found("9.7.4").as_deref(), Some("9.7.4"));
        assert_eq!(found("9.7.2").as_deref(), Some("9.7.2"));
        assert_eq!(found("8.4"), None, "two begin so, and the catalogue has none of that name");
        store.close().await;
    }
}
