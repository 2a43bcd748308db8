//! What several servers tell each other through the store: that something was written which others wait for.
//!
//! News make things quick and nothing else: whoever misses them finds the same by looking. A server hears its own, too.

use coffer_core::id::InstanceId;
use sqlx::postgres::PgListener;

use crate::database::Location;
use crate::{Error, Write};

/// The channel of PostgreSQL that news go through.
const CHANNEL: &str = "coffer";
/// What is told of the catalogue, and of a token that is worth nothing any more; everything else is an instance's id.
const CATALOGUE: &str = "catalogue";
const REVOKED: &str = "revoked";

/// What was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum News {
    /// An operation of this instance began, moved or was answered by the agent.
    Instance(InstanceId),
    /// A version of a datastore is not what it was.
    Catalogue,
    /// A token is worth nothing any more.
    Revoked,
    /// Anything: the connection was lost meanwhile.
    Anything,
}

/// Hears what is written, by whichever server.
#[derive(Debug)]
pub struct Listener(PgListener);

impl Listener {
    /// Listens from now on. `None` where the store is for one server alone, which knows what it has written.
    pub async fn open(location: &Location) -> Result<Option<Self>, Error> {
        let Some(url) = location.url() else { return Ok(None) };
        let mut listener = PgListener::connect(url).await?;
        listener.listen(CHANNEL).await?;
        Ok(Some(Self(listener)))
    }

    /// The next news. An error is a connection that cannot be had again; asked once more, it is tried once more.
    pub async fn next(&mut self) -> Result<News, Error> {
        let heard = self.0.try_recv().await?;
        Ok(heard.and_then(|heard| parse(heard.payload())).unwrap_or(News::Anything))
    }
}

fn parse(text: &str) -> Option<News> {
    match text {
        CATALOGUE => Some(News::Catalogue),
        REVOKED => Some(News::Revoked),
        id => id.parse().ok().map(News::Instance),
    }
}

impl Write {
    /// Tells the other servers, when this is committed.
    pub(crate) fn tell(&mut self, news: News) {
        self.news.insert(news);
    }

    /// Hands what is to be told to the database, which passes it on when the transaction is committed.
    pub(crate) async fn send_news(&mut self) -> Result<(), Error> {
        for news in std::mem::take(&mut self.news) {
            let text = match news {
                News::Instance(id) => id.to_string(),
                News::Catalogue => CATALOGUE.to_owned(),
                News::Revoked => REVOKED.to_owned(),
                News::Anything => continue,
            };
            sqlx::query("SELECT 1 WHERE pg_notify($1, $2) IS NOT NULL")
                .bind(CHANNEL)
                .bind(text)
                .execute(self.tx())
                .await?;
        }
        Ok(())
    }
}
