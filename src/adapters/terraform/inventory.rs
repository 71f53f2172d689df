//! Asks the cloud what is there, by the root `inventory`: it makes nothing and has no state of its own to keep.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, json};

use super::folder::RunFolder;
use super::in_flight::{Inventory, orphans, roles_of};
use super::init::absolute;
use super::process::{self, Call};
use super::recover::inputs_argument;
use super::state::State;
use super::{Inner, Root, Terraform, version};
use crate::db::states;
use crate::kernel::{Error, Result, codes};

/// What to list.
#[derive(Clone, Debug, Default)]
pub struct Listed {
    /// Tags that everything has, beside the environment's.
    pub tags: BTreeMap<String, String>,
    /// Regular expression for the names of roles.
    pub roles: String,
}

impl Terraform {
    /// # Errors
    /// `infra_unavailable` when Terraform cannot run at the moment; `infra_failed` with what the cloud said.
    pub async fn inventory(&self, listed: &Listed) -> Result<Inventory> {
        let _place = self.0.place().await?;
        self.0.inventory(listed).await
    }

    /// What the environment has in the cloud and no state knows. What somebody is at work on is none: who has begun within a
    /// day, and the states that are named here.
    ///
    /// # Errors
    /// As [`Terraform::inventory`]; `infra_refused` while the platform's state is where nobody looks.
    pub async fn orphans(&self, at_work: &[String]) -> Result<Vec<String>> {
        let mut conn = self.0.states.connect().await?;
        states::prepare(&mut conn, &Root::ALL.map(Root::as_str)).await?;
        // All that the platform has would be listed, as what costs money and is nobody's.
        states::misplaced(&mut conn, Root::Platform.as_str(), &self.0.settings.environment).await?;
        let roles = roles_of(&self.0.settings.environment);
        // The cloud first: what is made meanwhile is in a state or in the journal by the time they are read.
        let mut inventory = self.inventory(&Listed { tags: BTreeMap::new(), roles }).await?;
        let mut conn = self.0.states.connect().await?;
        let unsettled = states::unsettled(&mut conn, at_work).await?;
        let belongs = |tags: &BTreeMap<String, String>| {
            let owner = tags.get("freehold:tenant").or_else(|| tags.get("freehold:shard"));
            owner.is_some_and(|owner| unsettled.contains(owner))
        };
        inventory.tagged.retain(|_, tags| !belongs(tags));
        // A tenant's role has the tenant's id in its name, without what the id begins with.
        inventory.roles.retain(|role| {
            !unsettled.iter().any(|name| role.ends_with(name.strip_prefix("ten_").unwrap_or(name)))
        });
        let mut known: BTreeSet<String> = states::waning(&mut conn).await?.into_iter().collect();
        known.extend(states::kept(&mut conn).await?.into_iter().map(|one| one.key));
        for root in Root::ALL {
            for (_, text) in states::read_all(&mut conn, root.as_str()).await? {
                known.append(&mut State::parse(&text)?.known());
            }
        }
        Ok(orphans(&inventory, &known))
    }

    /// The states that hold something: their roots and their names.
    ///
    /// # Errors
    /// `infra_unavailable` when the state database does not answer.
    pub async fn states(&self) -> Result<Vec<(Root, String)>> {
        let mut conn = self.0.states.connect().await?;
        states::prepare(&mut conn, &Root::ALL.map(Root::as_str)).await?;
        let mut found = Vec::new();
        for root in Root::ALL {
            for (name, text) in states::read_all(&mut conn, root.as_str()).await? {
                if !State::parse(&text)?.resources().is_empty() {
                    found.push((root, name));
                }
            }
        }
        Ok(found)
    }
}

impl Inner {
    /// Without a place of its own: a run that looks for what was in flight has one already.
    pub(super) async fn inventory(&self, listed: &Listed) -> Result<Inventory> {
        let (work, roots) = (absolute(&self.settings.work)?, absolute(&self.settings.roots)?);
        let workspace = &self.settings.environment;
        let root = Root::Inventory.as_str();
        for mut left in RunFolder::leftovers(&work, root, workspace).map_err(Error::internal)? {
            // Whatever a dead one has left is of no use to anybody.
            if left.take().map_err(Error::internal)? && left.worker().is_none() {
                left.end_providers();
                left.remove().map_err(Error::internal)?;
            }
        }
        let folder = RunFolder::make(&work, &roots, root, workspace).map_err(Error::internal)?;
        let found = self.look(listed, &folder).await;
        folder.remove().map_err(Error::internal)?;
        found
    }

    async fn look(&self, listed: &Listed, folder: &RunFolder) -> Result<Inventory> {
        let mut inputs = Map::new();
        inputs.insert("environment".to_owned(), json!(self.settings.environment));
        inputs.insert("tags".to_owned(), json!(listed.tags));
        inputs.insert("role_pattern".to_owned(), json!(listed.roles));
        let inputs = serde_json::to_vec(&inputs).map_err(Error::internal)?;
        std::fs::write(folder.file("inputs.tfvars.json"), inputs).map_err(Error::internal)?;
        let env = self.ready(Root::Inventory, folder).await?;
        let mut args = ["apply", "-auto-approve", "-input=false", "-no-color"].map(str::to_owned).to_vec();
        args.push(inputs_argument(folder));
        let call = Call { args, name: "inventory", env };
        let mut running = process::start(&self.settings.terraform, folder, &call)?;
        if !running.end(self.settings.limit()).await?.success() {
            let said = std::fs::read_to_string(folder.file("inventory.err")).unwrap_or_default();
            return Err(version::no_provider(&said).unwrap_or_else(|| {
                let why = version::first_error(&said);
                Error::new(&codes::INFRA_FAILED)
                    .detail(format!("the cloud does not say what is there: {why}"))
            }));
        }
        let state =
            std::fs::read_to_string(folder.root().join("terraform.tfstate")).map_err(Error::internal)?;
        serde_json::from_value(State::parse(&state)?.output("inventory")).map_err(Error::internal)
    }
}
