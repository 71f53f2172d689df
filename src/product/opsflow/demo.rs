//! Sample data: a small team's month, with the tenant's name in it so that two tenants are told apart at a glance.

use chrono::{DateTime, Duration, Utc};
use sqlx::PgConnection;

use super::activity::model::{Changes, Entry};
use super::comments::store::comment_insert;
use super::projects::model::{NewProject, Project};
use super::projects::service::limit_reached;
use super::projects::store::{project_insert, projects_in_use};
use super::tasks::model::NewTask;
use super::tasks::store::task_insert;
use super::words::{ActivityId, CommentId, Priority, ProjectId, TaskId, TaskStatus};
use crate::data_plane::TenantContext;
use crate::kernel::{Error, Result};

use Priority::{High, Low, Normal, Urgent};
use TaskStatus::{Blocked, Cancelled, Done, InProgress, Todo};

struct Sample {
    name: &'static str,
    about: &'static str,
    tasks: &'static [SampleTask],
}

/// Title, description, status, priority, assignee, due in days from today, comments.
type SampleTask = (
    &'static str,
    &'static str,
    TaskStatus,
    Priority,
    Option<&'static str>,
    Option<i64>,
    &'static [(&'static str, &'static str)],
);

/// `{}` stands for the tenant's name.
const SAMPLES: [Sample; 3] = [
    Sample {
        name: "{} website relaunch",
        about: "New pages, faster, in two languages. Launch is the first Tuesday of next month.",
        tasks: &[
            (
                "Agree on the new {} home page",
                "Three drafts are in the shared folder. Pick one and say why.",
                Done,
                High,
                Some("Ada Byron"),
                Some(-12),
                &[
                    ("Grace Hopper", "The second draft: it says what {} does before it says how."),
                    ("Ada Byron", "Second draft it is. Thanks, everyone."),
                ],
            ),
            (
                "Move the images to the CDN",
                "Half of the page weight is pictures. Resize, then move.",
                InProgress,
                Normal,
                Some("Linus Pauling"),
                Some(3),
                &[("Linus Pauling", "1,900 of 2,400 done. The product photos are next.")],
            ),
            (
                "Translate the {} pricing page",
                "French and German. The legal text comes from the lawyers, not from us.",
                Blocked,
                High,
                Some("Grace Hopper"),
                Some(5),
                &[("Grace Hopper", "Waiting for the lawyers' German text since Monday.")],
            ),
            (
                "Load test before launch",
                "Ten times an ordinary Monday, for an hour.",
                Todo,
                Urgent,
                None,
                Some(9),
                &[],
            ),
            (
                "Retire the old blog",
                "Redirect every address; search engines remember.",
                Todo,
                Low,
                None,
                None,
                &[],
            ),
        ],
    },
    Sample {
        name: "{} customer onboarding",
        about: "From signature to first value in five working days.",
        tasks: &[
            (
                "Write the welcome mail",
                "Short. One link. Signed by a person at {}.",
                Done,
                Normal,
                Some("Mary Jackson"),
                Some(-20),
                &[],
            ),
            (
                "Record a three-minute tour",
                "Screen and voice, no music.",
                InProgress,
                Normal,
                Some("Ada Byron"),
                Some(1),
                &[
                    (
                        "Mary Jackson",
                        "Could you show how to invite a colleague? Half of the questions are about that.",
                    ),
                    ("Ada Byron", "Good idea, it goes in at 1:40."),
                ],
            ),
            (
                "Import customers' spreadsheets",
                "They come with merged cells and dates in three formats.",
                Todo,
                High,
                Some("Linus Pauling"),
                Some(14),
                &[],
            ),
            (
                "Print a handbook",
                "Nobody asked for it.",
                Cancelled,
                Low,
                Some("Mary Jackson"),
                None,
                &[("Grace Hopper", "Closing this: two customers in three years.")],
            ),
        ],
    },
    Sample {
        name: "{} office move",
        about: "Keys on the 28th. Nothing breaks, nobody works on the floor.",
        tasks: &[
            (
                "Order the internet line for the new {} office",
                "Six weeks of lead time, so now.",
                InProgress,
                Urgent,
                Some("Mary Jackson"),
                Some(-2),
                &[("Mary Jackson", "Ordered. The date is confirmed by Friday, they say.")],
            ),
            ("Label every cable", "Both ends. Future us will be grateful.", Todo, Low, None, Some(21), &[]),
            (
                "Tell customers the new address",
                "Invoices and contracts first, then the website of {}.",
                Todo,
                Normal,
                Some("Grace Hopper"),
                Some(18),
                &[],
            ),
        ],
    },
];

/// Loads the samples in one transaction, unless the tenant has ever had a project.
///
/// # Errors
/// `payment_required` when the plan has no room for three projects.
pub async fn load(tenant: &TenantContext) -> Result<()> {
    let (name, now, limit) = (title_case(tenant.slug.as_str()), tenant.clock.now(), tenant.limits.projects);
    tenant
        .write(async move |conn| {
            // The counter's row is the lock: of two that load at once, the second finds the first one's projects.
            sqlx::query("SELECT value FROM counters WHERE name = 'projects' FOR UPDATE")
                .execute(&mut *conn)
                .await?;
            let used: bool =
                sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM projects)").fetch_one(&mut *conn).await?;
            if used {
                return Ok(());
            }
            let mut story = Story { name: &name, now, minute: 0 };
            for sample in &SAMPLES {
                story.tell(conn, sample, limit).await?;
            }
            Ok(())
        })
        .await
}

/// Where the telling stands: each event happens some hours after the one before, the last of them before now.
struct Story<'a> {
    name: &'a str,
    now: DateTime<Utc>,
    minute: i64,
}

impl Story<'_> {
    async fn tell(&mut self, conn: &mut PgConnection, sample: &Sample, limit: u32) -> Result<()> {
        let new = NewProject { name: self.fill(sample.name), description: self.fill(sample.about) };
        let entry = self.event("Ada Byron", "project.created", new.changes());
        let project = project_insert(conn, &entry, ProjectId::new(), &new, limit).await?;
        let Some(Project { id: project, .. }) = project else {
            return Err(limit_reached(limit, projects_in_use(conn).await?));
        };
        for task in sample.tasks {
            self.tell_task(conn, project, task).await?;
        }
        Ok(())
    }

    async fn tell_task(
        &mut self,
        conn: &mut PgConnection,
        project: ProjectId,
        sample: &SampleTask,
    ) -> Result<()> {
        let (title, about, status, priority, assignee, due, comments) = *sample;
        let new = NewTask {
            project_id: project,
            title: self.fill(title),
            description: self.fill(about),
            status,
            priority,
            assignee: assignee.map(str::to_owned),
            due_at: due.map(|days| self.now + Duration::days(days)),
        };
        let entry = self.event(assignee.unwrap_or("Ada Byron"), "task.created", new.changes());
        let task = TaskId::new();
        // Nobody pays for samples.
        let made = task_insert(conn, &entry, task, &new, None).await?;
        made.ok_or_else(|| Error::internal("the sample project is missing"))?;
        for (author, text) in comments {
            let entry = self.event(author, "comment.created", Changes::new());
            comment_insert(conn, &entry, CommentId::new(), task, &self.fill(text)).await?;
        }
        Ok(())
    }

    fn event(&mut self, who: &str, action: &'static str, changes: Changes) -> Entry {
        self.minute += 1_111;
        Entry {
            id: ActivityId::new(),
            at: self.now - Duration::days(30) + Duration::minutes(self.minute),
            actor_id: format!("sample:{}", who.to_lowercase().replace(' ', ".")),
            actor_name: who.to_owned(),
            action,
            changes,
        }
    }

    fn fill(&self, text: &str) -> String {
        text.replace("{}", self.name)
    }
}

/// `north-wind` → `North Wind`.
fn title_case(slug: &str) -> String {
    let words = slug.split('-').map(|word| {
        let mut letters = word.chars();
        letters
            .next()
            .map(|first| first.to_ascii_uppercase().to_string() + letters.as_str())
            .unwrap_or_default()
    });
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use garde::Validate;

    use super::*;

    #[test]
    fn the_story_ends_before_now_and_fits_the_fields() {
        let now = DateTime::UNIX_EPOCH;
        let mut story = Story { name: "North Wind", now, minute: 0 };
        for sample in &SAMPLES {
            let new = NewProject { name: story.fill(sample.name), description: story.fill(sample.about) };
            new.validate().unwrap();
            for event in 0..=sample.tasks.len() + sample.tasks.iter().map(|task| task.6.len()).sum::<usize>()
            {
                assert!(story.event("x", "y", Changes::new()).at < now, "{event} of {}", sample.name);
            }
        }
        assert_eq!(title_case("north-wind"), "North Wind");
    }
}
