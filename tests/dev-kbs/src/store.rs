//! What survives a restart: resources, reference values and the resource policy, in one embedded database.
//!
//! Not the keys of the server, which are files of their own (`state`), and not the sessions, which are in memory.
//! Calls block: reads for microseconds from memory-backed pages, writes until the disk has them.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use cc_crypto::Secret;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use serde_json::Value;

use crate::Error;

/// `repository/type/tag` to the secret bytes.
const RESOURCES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("resources");
/// Name to the JSON text of the value.
const REFERENCE_VALUES: TableDefinition<'_, &str, &str> = TableDefinition::new("reference-values");
/// Policy name to the policy text.
const POLICIES: TableDefinition<'_, &str, &str> = TableDefinition::new("policies");

/// The one policy name in use.
pub const RESOURCE_POLICY: &str = "resource-policy";

/// Memory for cached pages, bytes.
const CACHE: usize = 16 << 20;

/// The open database.
#[derive(Debug)]
pub struct Store {
    database: Database,
}

impl Store {
    /// Opens the database file at `path`; a missing one is made with mode 0600.
    ///
    /// # Errors
    /// [`Error::State`] when the file cannot be made, [`Error::Store`] when it is no database or another process has
    /// it open.
    pub fn open(path: &Path) -> Result<Self, Error> {
        // Made here and not by the database, so that it is never readable by others.
        fs::OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(path)
            .map_err(|source| Error::State { doing: "make the database", path: path.to_owned(), source })?;
        let doing = "open the tables";
        let database = Database::builder().set_cache_size(CACHE).create(path).map_err(at(doing))?;
        let change = database.begin_write().map_err(at(doing))?;
        change.open_table(RESOURCES).map_err(at(doing))?;
        change.open_table(REFERENCE_VALUES).map_err(at(doing))?;
        change.open_table(POLICIES).map_err(at(doing))?;
        change.commit().map_err(at(doing))?;
        Ok(Self { database })
    }

    /// The secret stored under `path` (`repository/type/tag`), or nothing.
    ///
    /// # Errors
    /// [`Error::Store`] when the database fails.
    pub fn resource(&self, path: &str) -> Result<Option<Secret>, Error> {
        let doing = "read a resource";
        let view = self.database.begin_read().map_err(at(doing))?;
        let table = view.open_table(RESOURCES).map_err(at(doing))?;
        let found = table.get(path).map_err(at(doing))?;
        Ok(found.map(|bytes| Secret::new(bytes.value().to_vec())))
    }

    /// Stores `bytes` under `path`, in place of what was there.
    ///
    /// # Errors
    /// [`Error::Store`] when the database fails.
    pub fn put_resource(&self, path: &str, bytes: &[u8]) -> Result<(), Error> {
        let doing = "store a resource";
        let change = self.database.begin_write().map_err(at(doing))?;
        change.open_table(RESOURCES).map_err(at(doing))?.insert(path, bytes).map_err(at(doing))?;
        change.commit().map_err(at(doing))
    }

    /// Removes what is stored under `path`; says whether there was something.
    ///
    /// # Errors
    /// [`Error::Store`] when the database fails.
    pub fn remove_resource(&self, path: &str) -> Result<bool, Error> {
        let doing = "remove a resource";
        let change = self.database.begin_write().map_err(at(doing))?;
        let existed =
            change.open_table(RESOURCES).map_err(at(doing))?.remove(path).map_err(at(doing))?.is_some();
        change.commit().map_err(at(doing))?;
        Ok(existed)
    }

    /// The reference value called `name`, or nothing.
    ///
    /// # Errors
    /// [`Error::Store`] when the database fails.
    pub fn reference_value(&self, name: &str) -> Result<Option<Value>, Error> {
        let doing = "read a reference value";
        let view = self.database.begin_read().map_err(at(doing))?;
        let table = view.open_table(REFERENCE_VALUES).map_err(at(doing))?;
        match table.get(name).map_err(at(doing))? {
            Some(text) => parse_value(text.value()).map(Some),
            None => Ok(None),
        }
    }

    /// All reference values, by name.
    ///
    /// # Errors
    /// [`Error::Store`] when the database fails.
    pub fn reference_values(&self) -> Result<BTreeMap<String, Value>, Error> {
        let doing = "read the reference values";
        let view = self.database.begin_read().map_err(at(doing))?;
        let table = view.open_table(REFERENCE_VALUES).map_err(at(doing))?;
        let mut values = BTreeMap::new();
        for entry in table.iter().map_err(at(doing))? {
            let (name, text) = entry.map_err(at(doing))?;
            values.insert(name.value().to_owned(), parse_value(text.value())?);
        }
        Ok(values)
    }

    /// Stores all of `values` in one step; each replaces the stored one of its name.
    ///
    /// # Errors
    /// [`Error::Store`] when the database fails; then none is stored.
    pub fn put_reference_values(&self, values: &serde_json::Map<String, Value>) -> Result<(), Error> {
        let doing = "store reference values";
        let change = self.database.begin_write().map_err(at(doing))?;
        {
            let mut table = change.open_table(REFERENCE_VALUES).map_err(at(doing))?;
            for (name, value) in values {
                table.insert(name.as_str(), value.to_string().as_str()).map_err(at(doing))?;
            }
        }
        change.commit().map_err(at(doing))
    }

    /// The text of the policy called `name`, or nothing.
    ///
    /// # Errors
    /// [`Error::Store`] when the database fails.
    pub fn policy(&self, name: &str) -> Result<Option<String>, Error> {
        let doing = "read a policy";
        let view = self.database.begin_read().map_err(at(doing))?;
        let table = view.open_table(POLICIES).map_err(at(doing))?;
        Ok(table.get(name).map_err(at(doing))?.map(|text| text.value().to_owned()))
    }

    /// Stores the policy `text` as `name`, in place of the old one.
    ///
    /// # Errors
    /// [`Error::Store`] when the database fails.
    pub fn put_policy(&self, name: &str, text: &str) -> Result<(), Error> {
        let doing = "store a policy";
        let change = self.database.begin_write().map_err(at(doing))?;
        change.open_table(POLICIES).map_err(at(doing))?.insert(name, text).map_err(at(doing))?;
        change.commit().map_err(at(doing))
    }
}

/// Wraps what the database says with what was being done.
fn at<E: Into<redb::Error>>(doing: &'static str) -> impl FnOnce(E) -> Error {
    move |source| Error::Store { doing, source: Box::new(source.into()) }
}

fn parse_value(text: &str) -> Result<Value, Error> {
    serde_json::from_str(text).map_err(|_| Error::Internal("a stored reference value is not JSON"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use serde_json::json;

    use super::*;

    #[test]
    fn everything_survives_a_restart() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("kbs.redb");
        let store = Store::open(&path).unwrap();
        store.put_resource("default/key/1", b"secret").unwrap();
        store.put_resource("default/key/1", b"newer").unwrap();
        let values = json!({ "svn": ["1"], "snp_smt_enabled": true });
        store.put_reference_values(values.as_object().unwrap()).unwrap();
        store.put_policy(RESOURCE_POLICY, "default = \"deny\"").unwrap();
        drop(store);

        let store = Store::open(&path).unwrap();
        assert_eq!(store.resource("default/key/1").unwrap().unwrap().expose(), b"newer");
        assert!(store.resource("default/key/2").unwrap().is_none());
        assert_eq!(store.reference_value("svn").unwrap(), Some(json!(["1"])));
        assert_eq!(store.reference_value("none").unwrap(), None);
        assert_eq!(store.reference_values().unwrap().len(), 2);
        assert_eq!(store.policy(RESOURCE_POLICY).unwrap().unwrap(), "default = \"deny\"");
        assert!(store.remove_resource("default/key/1").unwrap());
        assert!(!store.remove_resource("default/key/1").unwrap());
        assert!(store.resource("default/key/1").unwrap().is_none());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_second_server_on_the_same_state_is_refused() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("kbs.redb");
        let _first = Store::open(&path).unwrap();
        assert!(matches!(Store::open(&path), Err(Error::Store { .. })));
    }
}
