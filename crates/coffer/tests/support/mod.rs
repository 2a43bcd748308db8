//! What the tests of the whole program share.

pub(crate) mod another;
pub(crate) mod clock;
pub(crate) mod contents;
pub(crate) mod dataset;
pub(crate) mod disk;
pub(crate) mod faulty;
pub(crate) mod held;
pub(crate) mod http;
pub(crate) mod ledger;
pub(crate) mod leftovers;
pub(crate) mod load;
pub(crate) mod mariadb;
pub(crate) mod mysql;
pub(crate) mod namespace;
pub(crate) mod openstack;
pub(crate) mod resp;
pub(crate) mod sql;
pub(crate) mod strike;
pub(crate) mod struck;
pub(crate) mod unharmed;
pub(crate) mod visitors;
pub(crate) mod world;
pub(crate) mod writers;
