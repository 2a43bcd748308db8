//! The catalogue of datastore versions. It belongs to no tenant.

use coffer_core::datastore::{Number, Version};
use coffer_core::id::{Digest, VersionId};

use crate::row::{Columns, to_json};
use crate::{Error, News, Store, Write};

impl Store {
    /// All versions, in no particular order.
    pub async fn versions(&self) -> Result<Vec<Version>, Error> {
        let rows = sqlx::query(
            "SELECT id, datastore, name, number, image, CAST(active AS INTEGER), CAST(is_default AS INTEGER), sources \
             FROM versions",
        )
        .fetch_all(self.reader())
        .await?;
        rows.iter()
            .map(|row| {
                let mut c = Columns::of(row, "version");
                Ok(Version {
                    id: c.parse()?,
                    datastore: c.parse()?,
                    name: c.get()?,
                    number: c.parse()?,
                    image: c.get::<Option<String>>()?.map(Digest),
                    active: c.truth()?,
                    default: c.truth()?,
                    sources: c.json()?,
                })
            })
            .collect()
    }
}

impl Write {
    /// Writes a version as the catalogue has it. Of one that is there already only its sources change, and its number until
    /// an image says which it is: name, image, active and default are the operator's, or were found out. It becomes the
    /// default only where there is none.
    pub async fn seed_version(&mut self, version: &Version) -> Result<(), Error> {
        self.tell(News::Catalogue);
        sqlx::query(
            "INSERT INTO versions (id, datastore, name, number, image, active, is_default, sources) \
             VALUES ($1, $2, $3, $4, $5, $6, \
                 $7 AND NOT EXISTS (SELECT 1 FROM versions d WHERE d.datastore = $2 AND d.is_default), $8) \
             ON CONFLICT (id) DO UPDATE SET sources = excluded.sources, \
                 number = CASE WHEN versions.image IS NULL THEN excluded.number ELSE versions.number END",
        )
        .bind(version.id.to_string())
        .bind(version.datastore.name())
        .bind(&version.name)
        .bind(version.number.to_string())
        .bind(version.image.as_ref().map(|d| d.0.clone()))
        .bind(version.active)
        .bind(version.default)
        .bind(to_json(&version.sources)?)
        .execute(self.tx())
        .await?;
        Ok(())
    }

    /// Writes what an operator may change of a version, and takes the default away from the one that had it.
    /// False when another version of the datastore has that name; nothing is written then.
    pub async fn save_version(&mut self, version: &Version) -> Result<bool, Error> {
        self.tell(News::Catalogue);
        if version.default {
            sqlx::query("UPDATE versions SET is_default = FALSE WHERE datastore = $1 AND is_default AND id <> $2")
                .bind(version.datastore.name())
                .bind(version.id.to_string())
                .execute(self.tx())
                .await?;
        }
        let written = sqlx::query("UPDATE versions SET name = $1, active = $2, is_default = $3 WHERE id = $4")
            .bind(&version.name)
            .bind(version.active)
            .bind(version.default)
            .bind(version.id.to_string())
            .execute(self.tx())
            .await;
        match written {
            Err(sqlx::Error::Database(e)) if e.is_unique_violation() => Ok(false),
            written => written.map(|_| true).map_err(Error::from),
        }
    }

    /// Records which image was fetched for a version, and the number that its program says. The first one stays: what
    /// instances run must not change under them.
    pub async fn record_image(&mut self, version: VersionId, image: &Digest, number: Number) -> Result<(), Error> {
        self.tell(News::Catalogue);
        sqlx::query("UPDATE versions SET image = $1, number = $2 WHERE id = $3 AND image IS NULL")
            .bind(&image.0)
            .bind(number.to_string())
            .bind(version.to_string())
            .execute(self.tx())
            .await?;
        self.name_series().await
    }

    /// Names every version that is named by its series by its number, now that it is known, unless another has that name.
    pub async fn name_series(&mut self) -> Result<(), Error> {
        sqlx::query(
            "UPDATE versions SET name = number WHERE number LIKE name || '.%' AND NOT EXISTS (\
                 SELECT 1 FROM versions o WHERE o.datastore = versions.datastore AND o.id <> versions.id \
                 AND (o.name = versions.number OR (o.number = versions.number AND o.id < versions.id)))",
        )
        .execute(self.tx())
        .await?;
        Ok(())
    }
}
