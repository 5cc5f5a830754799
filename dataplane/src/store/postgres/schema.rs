//! The tables and how they come to be. `serve` never makes or changes one: an empty database is more
//! likely a wrong one, and when to change a schema that others read is a person's decision (decision 24).

use tokio_postgres::Client;

use super::super::{StoreError, Table};
use super::failure::Failure;

/// Steps from nothing to the newest schema; `{s}` is the schema. Published ones never change.
const MIGRATIONS: &[&str] = &["
    CREATE TABLE {s}.meta (
        one boolean PRIMARY KEY DEFAULT true CHECK (one),
        version integer NOT NULL,
        store_id text NOT NULL
    );
    INSERT INTO {s}.meta (version, store_id) VALUES (0, gen_random_uuid()::text);
    CREATE TABLE {s}.dek (key bytea PRIMARY KEY, keyspace text NOT NULL, value bytea NOT NULL);
    CREATE TABLE {s}.current (key bytea PRIMARY KEY, keyspace text NOT NULL, value bytea NOT NULL);
    CREATE TABLE {s}.document (key bytea PRIMARY KEY, keyspace text NOT NULL, value bytea NOT NULL);
    CREATE TABLE {s}.key (key bytea PRIMARY KEY, keyspace text NOT NULL, value bytea NOT NULL);
    CREATE INDEX dek_by_keyspace ON {s}.dek (keyspace, key);
    CREATE INDEX current_by_keyspace ON {s}.current (keyspace, key);
    CREATE INDEX key_by_keyspace ON {s}.key (keyspace, key);
"];

/// Held while tables are made: of several that migrate at once, one works and the others find it done.
/// "sigilsto" in ASCII.
const LOCK: i64 = 0x7369_6769_6c73_746f;

/// What a store says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Meta {
    /// Drawn when the tables were made: two servers with different ones are not the same store.
    pub(super) store_id: String,
}

/// Text of the statements for one schema.
#[derive(Clone, Debug)]
pub(super) struct Sql {
    schema: String,
}

/// One statement of an engine's operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    Get,
    Insert,
    Update,
    List,
    Scan,
}

// === impl Sql ===

impl Sql {
    pub(super) fn new(schema: &str) -> Self {
        Self { schema: schema.to_owned() }
    }

    pub(super) fn meta(&self) -> String {
        format!("SELECT version, store_id FROM {}.meta", self.schema)
    }

    pub(super) fn statement(&self, kind: Kind, table: Table) -> String {
        let name = format!("{}.{}", self.schema, table_name(table));
        match kind {
            Kind::Get => format!("SELECT value FROM {name} WHERE key = $1"),
            Kind::Insert => format!(
                "INSERT INTO {name} (key, keyspace, value) VALUES ($1, $2, $3) \
                 ON CONFLICT (key) DO NOTHING"
            ),
            Kind::Update => format!("UPDATE {name} SET value = $2 WHERE key = $1 AND value = $3"),
            Kind::List => format!(
                "SELECT key, value FROM {name} WHERE keyspace = $1 AND key > $2 ORDER BY key LIMIT $3"
            ),
            Kind::Scan => {
                format!("SELECT key, value FROM {name} WHERE key > $1 ORDER BY key LIMIT $2")
            }
        }
    }
}

fn table_name(table: Table) -> &'static str {
    match table {
        Table::Dek => "dek",
        Table::Current => "current",
        Table::Document => "document",
        Table::Key => "key",
    }
}

/// Judges what `meta` holds.
pub(super) fn check(version: i32, store_id: String) -> Result<Meta, StoreError> {
    let newest = newest(MIGRATIONS);
    match version {
        found if found == newest => Ok(Meta { store_id }),
        found if found > newest => Err(StoreError::Unavailable(format!(
            "schema version {found} is newer than this program reads ({newest}); use a newer program"
        ))),
        found => Err(StoreError::Unavailable(format!(
            "schema version {found} is older than this program needs ({newest}); run `sigil-dataplane \
             ctl store migrate`"
        ))),
    }
}

/// Makes what is missing, in one transaction; gives the versions before and after.
pub(super) async fn migrate(client: &mut Client, schema: &str) -> Result<(i32, i32), StoreError> {
    migrate_with(client, schema, MIGRATIONS).await
}

async fn migrate_with(
    client: &mut Client,
    schema: &str,
    migrations: &[&str],
) -> Result<(i32, i32), StoreError> {
    let failed = |error: tokio_postgres::Error| Failure::from(error).into_error();
    let newest = newest(migrations);
    let transaction = client.transaction().await.map_err(failed)?;
    transaction.execute("SELECT pg_advisory_xact_lock($1)", &[&LOCK]).await.map_err(failed)?;
    // Asked for first: a role that may not create a schema may well use one.
    let exists = "SELECT to_regnamespace($1) IS NOT NULL, to_regclass($2) IS NOT NULL";
    let meta = format!("{schema}.meta");
    let row = transaction.query_one(exists, &[&schema, &meta]).await.map_err(failed)?;
    let (has_schema, has_meta): (bool, bool) = (row.get(0), row.get(1));
    if !has_schema {
        transaction.batch_execute(&format!("CREATE SCHEMA {schema}")).await.map_err(failed)?;
    }
    let sql = Sql::new(schema);
    let found: i32 = if has_meta {
        transaction.query_one(&sql.meta(), &[]).await.map_err(failed)?.get(0)
    } else {
        0
    };
    if found > newest {
        return Err(StoreError::Unavailable(format!(
            "schema version {found} is newer than this program makes ({newest}); nothing was changed"
        )));
    }
    let done = usize::try_from(found).unwrap_or(0);
    for step in migrations.iter().skip(done) {
        transaction.batch_execute(&step.replace("{s}", schema)).await.map_err(failed)?;
    }
    if found != newest {
        let update = format!("UPDATE {schema}.meta SET version = $1");
        transaction.execute(&update, &[&newest]).await.map_err(failed)?;
    }
    transaction.commit().await.map_err(failed)?;
    Ok((found, newest))
}

/// Lets a role read and write rows; it can neither remove one nor change a table.
pub(super) async fn grant(client: &Client, schema: &str, role: &str) -> Result<(), StoreError> {
    let role = format!("\"{}\"", role.replace('"', "\"\""));
    let tables = ["dek", "current", "document", "key"].map(|table| format!("{schema}.{table}"));
    let grants = format!(
        "GRANT USAGE ON SCHEMA {schema} TO {role}; GRANT SELECT ON {schema}.meta TO {role}; \
         GRANT SELECT, INSERT, UPDATE ON {} TO {role}",
        tables.join(", ")
    );
    let done = client.batch_execute(&grants).await;
    done.map_err(|error| Failure::from(error).into_error())
}

fn newest(migrations: &[&str]) -> i32 {
    i32::try_from(migrations.len()).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests;
