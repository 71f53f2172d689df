//! Pools, shards, slots and plans.

use reqwest::Method;

use super::changes::checked;
use super::client::Reply;
use super::{Direct, Fleet};
use crate::app;
use crate::control_plane::plans::{self, Plan, PlanChanges};
use crate::control_plane::registry::shard_remove;
use crate::control_plane::shards::{
    NewPool, NewShard, Shard, ShardPool, ShardState, pool_add, pool_list, shard_add, shard_by_id, shard_find,
    shard_list, shard_set_slots, shard_set_state,
};
use crate::control_plane::slots::{Slot, slot_fill, slot_list};
use crate::db::admin;
use crate::http::operator::{ApplyPlans, Fill, SlotFilter};
use crate::kernel::page::Page;
use crate::kernel::{Error, Result, codes};
use crate::product::Current;

impl Fleet {
    pub async fn pool_list(&self) -> Result<Page<ShardPool>> {
        match self {
            Self::Direct(direct) => pool_list(&mut *direct.control().await?).await.map(Page::whole),
            Self::Remote(client) => client.get(&["pools"], &()).await,
        }
    }

    pub async fn pool_add(&self, new: &NewPool) -> Result<ShardPool> {
        checked(new)?;
        match self {
            Self::Direct(direct) => pool_add(&direct.cp, &direct.caller, new).await,
            Self::Remote(client) => client.post(&["pools"], new).await,
        }
    }

    pub async fn shard_list(&self) -> Result<Page<Shard>> {
        match self {
            Self::Direct(direct) => shard_list(&mut *direct.control().await?).await.map(Page::whole),
            Self::Remote(client) => client.get(&["shards"], &()).await,
        }
    }

    pub async fn shard_show(&self, shard: &str) -> Result<Shard> {
        match self {
            Self::Direct(direct) => shard_find(&mut *direct.control().await?, shard).await,
            Self::Remote(client) => client.get(&["shards", shard], &()).await,
        }
    }

    pub async fn shard_add(&self, new: &NewShard) -> Result<Shard> {
        checked(new)?;
        match self {
            Self::Direct(direct) => direct.shard_add(new).await,
            Self::Remote(client) => {
                match client.change(client.request(Method::POST, &["shards"])?.json(new)).await? {
                    Reply::Done(shard) => Ok(shard),
                    Reply::Underway(run) => {
                        self.run_follow(run.id).await?;
                        self.shard_show(&new.name).await
                    }
                }
            }
        }
    }

    /// Lets a shard take tenants, or stops it from taking any more.
    pub async fn shard_state(&self, shard: &str, state: ShardState) -> Result<Shard> {
        let verb = match state {
            ShardState::Active => "activate",
            ShardState::Draining => "drain",
            ShardState::Offline => return Err(Error::internal("no command takes a shard offline")),
        };
        match self {
            Self::Direct(direct) => shard_set_state(&direct.cp, &direct.caller, shard, state).await,
            Self::Remote(client) => client.post(&["shards", shard, verb], &()).await,
        }
    }

    /// Takes a shard out of the registry, and gives it as it was.
    pub async fn shard_remove(&self, shard: &str) -> Result<Shard> {
        match self {
            Self::Direct(direct) => shard_remove(&direct.cp, &direct.caller, shard).await,
            Self::Remote(client) => client.delete(&["shards", shard]).await,
        }
    }

    pub async fn slot_list(&self, shard: Option<&str>) -> Result<Page<Slot>> {
        match self {
            Self::Direct(direct) => slot_list(&mut *direct.control().await?, shard).await.map(Page::whole),
            Self::Remote(client) => {
                client.get(&["slots"], &SlotFilter { shard: shard.map(str::to_owned) }).await
            }
        }
    }

    /// Brings a shard to its number of spare slots: at once here, by the worker through a server.
    pub async fn slot_fill(&self, shard: &Shard, target: i32) -> Result<Shard> {
        let fill = Fill { target };
        checked(&fill)?;
        match self {
            Self::Direct(direct) => direct.slot_fill(shard, target).await,
            Self::Remote(client) => client.post(&["shards", &shard.name, "fill"], &fill).await,
        }
    }

    pub async fn plan_list(&self) -> Result<Page<Plan>> {
        match self {
            Self::Direct(direct) => plans::plan_list(&mut *direct.control().await?).await.map(Page::whole),
            Self::Remote(client) => client.get(&["plans"], &()).await,
        }
    }

    pub async fn plan_apply(&self, toml: String, dry_run: bool) -> Result<PlanChanges> {
        let file = plans::parse(&toml)?;
        match self {
            Self::Direct(direct) => {
                // What plans may charge for; also for a dry run, which is to find the same mistakes.
                app::meters::<Current>(&direct.cp).await?;
                plans::apply(&direct.cp, &direct.caller, &file, dry_run).await
            }
            Self::Remote(client) => client.post(&["plans", "apply"], &ApplyPlans { toml, dry_run }).await,
        }
    }
}

impl Direct {
    async fn shard_add(&self, new: &NewShard) -> Result<Shard> {
        self.hands()?;
        // What cannot work is said before anything is recorded.
        admin::options(&new.dsn.read()?)?;
        let (id, run) = shard_add(&self.cp, &self.caller, new).await?;
        self.finish(run).await?;
        shard_by_id(&mut *self.control().await?, id).await
    }

    async fn slot_fill(&self, shard: &Shard, target: i32) -> Result<Shard> {
        let hands = self.hands()?;
        let shard = shard_set_slots(&self.cp, &self.caller, &shard.name, target).await?;
        if shard.state == ShardState::Offline {
            return Err(Error::new(&codes::STATE_CONFLICT).detail(format!("shard {} is offline", shard.name)));
        }
        let missing = u64::try_from(i64::from(target) - shard.slots_ready).unwrap_or(0);
        let bar = self.progress.count(missing, "slots");
        slot_fill(hands, &shard, i64::from(target), || bar.inc(1)).await?;
        bar.finish_and_clear();
        shard_by_id(&mut *self.control().await?, shard.id).await
    }
}
