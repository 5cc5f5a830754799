//! Tests against a real etcd and kube-apiserver, which they start themselves on loopback.
//! One that cannot find them fails and says how to get them.

#[path = "api/server.rs"]
mod server;

#[path = "api/fixture.rs"]
mod fixture;
#[path = "api/lease.rs"]
mod lease;
#[path = "api/pool.rs"]
mod pool;
#[path = "api/refused.rs"]
mod refused;
#[path = "api/tolerance.rs"]
mod tolerance;
