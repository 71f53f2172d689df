-- OpsFlow: projects, their tasks, the comments on them, and what happened when.

-- Live rows per kind, raised and lowered with them in one transaction. The row is also the lock that makes a plan's
-- limit hold when two callers create at once.
CREATE TABLE counters (
    name  text PRIMARY KEY,
    value bigint NOT NULL CHECK (value >= 0)
);
INSERT INTO counters (name, value) VALUES ('projects', 0);

CREATE TABLE projects (
    id          uuid PRIMARY KEY,
    name        text NOT NULL CHECK (char_length(name) BETWEEN 1 AND 120),
    description text NOT NULL,
    status      text NOT NULL CHECK (status IN ('active', 'archived')),
    version     bigint NOT NULL DEFAULT 1,
    created_by  text NOT NULL,
    created_at  timestamptz NOT NULL,
    updated_at  timestamptz NOT NULL,
    deleted_at  timestamptz
);
-- Every list walks an index in its own order and stops at the page's end; id breaks ties.
CREATE INDEX projects_created ON projects (created_at, id) WHERE deleted_at IS NULL;
CREATE INDEX projects_updated ON projects (updated_at, id) WHERE deleted_at IS NULL;
CREATE INDEX projects_name ON projects (name, id) WHERE deleted_at IS NULL;
CREATE INDEX projects_status ON projects (status, created_at, id) WHERE deleted_at IS NULL;

-- A deleted project's tasks carry deleted_at as well, so that no list has to look at the project.
CREATE TABLE tasks (
    id            uuid PRIMARY KEY,
    project_id    uuid NOT NULL REFERENCES projects (id),
    title         text NOT NULL CHECK (char_length(title) BETWEEN 1 AND 200),
    description   text NOT NULL,
    status        text NOT NULL CHECK (status IN ('todo', 'in_progress', 'blocked', 'done', 'cancelled')),
    priority      text NOT NULL CHECK (priority IN ('low', 'normal', 'high', 'urgent')),
    priority_rank smallint NOT NULL GENERATED ALWAYS AS (
        CASE priority WHEN 'low' THEN 0 WHEN 'normal' THEN 1 WHEN 'high' THEN 2 ELSE 3 END) STORED,
    assignee      text CHECK (char_length(assignee) BETWEEN 1 AND 120),
    due_at        timestamptz,
    version       bigint NOT NULL DEFAULT 1,
    created_by    text NOT NULL,
    created_at    timestamptz NOT NULL,
    updated_at    timestamptz NOT NULL,
    deleted_at    timestamptz,
    search        tsvector NOT NULL GENERATED ALWAYS AS (
        setweight(to_tsvector('english', title), 'A') || setweight(to_tsvector('english', description), 'B')) STORED
);
CREATE INDEX tasks_created ON tasks (created_at, id) WHERE deleted_at IS NULL;
CREATE INDEX tasks_updated ON tasks (updated_at, id) WHERE deleted_at IS NULL;
CREATE INDEX tasks_due ON tasks ((coalesce(due_at, 'infinity'::timestamptz)), id) WHERE deleted_at IS NULL;
CREATE INDEX tasks_priority ON tasks (priority_rank, id) WHERE deleted_at IS NULL;
CREATE INDEX tasks_project ON tasks (project_id, created_at, id) WHERE deleted_at IS NULL;
CREATE INDEX tasks_status ON tasks (status, created_at, id) WHERE deleted_at IS NULL;
CREATE INDEX tasks_assignee ON tasks (assignee, created_at, id) WHERE deleted_at IS NULL;
CREATE INDEX tasks_search ON tasks USING gin (search) WHERE deleted_at IS NULL;

-- A comment is seen only through its task: deleting the task needs no change here.
CREATE TABLE comments (
    id          uuid PRIMARY KEY,
    task_id     uuid NOT NULL REFERENCES tasks (id),
    body        text NOT NULL CHECK (char_length(body) BETWEEN 1 AND 10000),
    author_id   text NOT NULL,
    author_name text NOT NULL,
    version     bigint NOT NULL DEFAULT 1,
    created_at  timestamptz NOT NULL,
    edited_at   timestamptz,
    deleted_at  timestamptz
);
CREATE INDEX comments_task ON comments (task_id, created_at, id) WHERE deleted_at IS NULL;

-- Append-only. It outlives what it speaks of, so it holds no foreign keys.
CREATE TABLE activity (
    id         uuid NOT NULL,
    at         timestamptz NOT NULL,
    actor_id   text NOT NULL,
    actor_name text NOT NULL,
    action     text NOT NULL,
    project_id uuid NOT NULL,
    task_id    uuid,
    comment_id uuid,
    changes    jsonb NOT NULL,
    PRIMARY KEY (at, id)
);
CREATE INDEX activity_project ON activity (project_id, at, id);
CREATE INDEX activity_task ON activity (task_id, at, id) WHERE task_id IS NOT NULL;
CREATE INDEX activity_comment ON activity (comment_id, at, id) WHERE comment_id IS NOT NULL;
CREATE INDEX activity_actor ON activity (actor_id, at, id);
