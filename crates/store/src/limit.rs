//! A limit for every question to the database: one that is cut off without a word would else be waited for until the kernel gives up,
//! a quarter of an hour later, by everybody who needs its connection.

use std::future::Future;
use std::io;
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt as _, TryFutureExt as _};
use futures_util::stream::{self, BoxStream, StreamExt as _, TryStreamExt as _};
use sqlx::any::{Any, AnyQueryResult, AnyRow, AnyStatement, AnyTypeInfo};
use sqlx::{Either, Execute, Executor, SqlStr};

/// Longer than the database itself lets a statement wait for others.
const LIMIT: Duration = Duration::from_secs(15);

/// Asks the database by way of another executor, for so long. A connection whose answer was not waited for has as long
/// again to give it, and is closed else.
#[derive(Debug)]
pub(crate) struct Limited<E>(pub(crate) E);

/// The same for what is no question.
pub(crate) async fn in_time<T>(work: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, sqlx::Error> {
    let late = |_| {
        let message = format!("the database did not answer within {} s", LIMIT.as_secs());
        Err(sqlx::Error::Io(io::Error::new(io::ErrorKind::TimedOut, message)))
    };
    tokio::time::timeout(LIMIT, work).await.unwrap_or_else(late)
}

impl<'c, E: Executor<'c, Database = Any> + 'c> Executor<'c> for Limited<E> {
    type Database = Any;

    fn fetch_many<'e, 'q: 'e, Q>(self, query: Q) -> BoxStream<'e, Result<Either<AnyQueryResult, AnyRow>, sqlx::Error>>
    where
        'c: 'e,
        Q: 'q + Execute<'q, Any>,
    {
        // At once, since whoever asks keeps all of it anyway.
        let all = in_time(self.0.fetch_many(query).try_collect::<Vec<_>>());
        all.map_ok(|all| stream::iter(all.into_iter().map(Ok))).try_flatten_stream().boxed()
    }

    fn fetch_optional<'e, 'q: 'e, Q>(self, query: Q) -> BoxFuture<'e, Result<Option<AnyRow>, sqlx::Error>>
    where
        'c: 'e,
        Q: 'q + Execute<'q, Any>,
    {
        in_time(self.0.fetch_optional(query)).boxed()
    }

    fn prepare_with<'e>(
        self,
        sql: SqlStr,
        parameters: &'e [AnyTypeInfo],
    ) -> BoxFuture<'e, Result<AnyStatement, sqlx::Error>>
    where
        'c: 'e,
    {
        in_time(self.0.prepare_with(sql, parameters)).boxed()
    }
}
