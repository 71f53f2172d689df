//! Fault proxies before what a server depends on.

use super::proxy::Proxy;
use super::{Cluster, World};
use crate::kernel::{Error, Result};

/// Which roads lead through a proxy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Through {
    /// The servers' road to each shard, as tenants (and what sign-up dials).
    pub shards: bool,
    /// The worker's and the CLI's road to each shard, as admin: a proxy of its own.
    pub admins: bool,
    /// Everybody's road to the control database.
    pub control: bool,
    pub redis: bool,
}

/// The proxies that were asked for.
#[derive(Default)]
pub struct Proxies {
    /// One per shard, in the world's order.
    pub shards: Vec<Proxy>,
    pub admins: Vec<Proxy>,
    pub control: Option<Proxy>,
    pub redis: Option<Proxy>,
}

impl Proxies {
    /// Puts proxies before a world's databases and Redis. A server that is started afterwards goes through them; the
    /// world's own pools and `shard_urls` do not, so that a test can look at what is behind a fault. (With
    /// [`Through::admins`], `world.hands.admins` does: it is what the worker uses.)
    ///
    /// # Panics
    /// When the control database refuses.
    pub async fn before(world: &mut World, through: Through, redis: &str) -> Self {
        let mut proxies = Self::default();
        for index in 0..world.shards.len() {
            proxies.add_shard(world, index, through).await.expect("the shard's road");
        }
        if through.control {
            proxies.control = Some(Proxy::to_port(Cluster::shared().await.server(0).port()).await);
        }
        if through.redis {
            let port = reqwest::Url::parse(redis).ok().and_then(|url| url.port()).expect("the port of Redis");
            proxies.redis = Some(Proxy::to_port(port).await);
        }
        proxies
    }

    async fn add_shard(&mut self, world: &mut World, index: usize, through: Through) -> Result<()> {
        let url = world.shard_urls[index].clone();
        let shard = &mut world.shards[index];
        let port = shard.port.and_then(|port| u16::try_from(port).ok()).expect("a prepared shard");
        if through.shards {
            let proxy = Proxy::to_port(port).await;
            shard.port = Some(i32::from(proxy.port()));
            sqlx::query("UPDATE shard SET port = $2 WHERE id = $1")
                .bind(shard.id)
                .bind(shard.port)
                .execute(&world.hands.cp.db)
                .await?;
            self.shards.push(proxy);
        }
        if through.admins {
            let proxy = Proxy::to_port(port).await;
            let file = world.folder.path().join(&shard.name);
            std::fs::write(file, proxy.url(&url)).map_err(Error::internal)?;
            world.hands.admins.forget(shard.id);
            self.admins.push(proxy);
        }
        Ok(())
    }

    /// The control database's DSN for servers and workers.
    pub fn control_url(&self, world: &World) -> String {
        match &self.control {
            Some(proxy) => proxy.url(&world.control_url),
            None => world.control_url.clone(),
        }
    }

    /// The DSN of Redis for servers, given the direct one.
    pub fn redis_url(&self, direct: &str) -> String {
        self.redis.as_ref().map_or_else(|| direct.to_owned(), |proxy| proxy.url(direct))
    }
}
