-- People: who they are, how they get in, where they belong. No secret is stored that would let its reader in: random
-- ones as SHA-256, passwords as argon2id, what has to be read again sealed with a key derived from the master key.

ALTER TABLE api_key DROP CONSTRAINT api_key_role_check;
ALTER TABLE api_key
    ADD CONSTRAINT api_key_role_check CHECK (role IN ('viewer', 'member', 'manager', 'admin', 'owner')),
    -- What the key may touch, as `tasks:read`; null for all that its role may.
    ADD COLUMN scopes text[],
    ADD COLUMN created_by uuid;

-- A person. Found by (issuer, subject), or by password; never by an e-mail address that somebody merely claims.
CREATE TABLE account (
    id             uuid PRIMARY KEY,
    name           text NOT NULL CHECK (char_length(name) BETWEEN 1 AND 120),
    -- Where mail goes. Not unique: two providers may vouch for one address, and that makes them no one person.
    email          text CHECK (char_length(email) BETWEEN 3 AND 254),
    email_verified boolean NOT NULL DEFAULT false,
    locale         text NOT NULL DEFAULT 'en',
    -- Second factor: sealed secret, when it was confirmed, and the last time step used, so that a code works once.
    totp_secret    bytea,
    totp_since     timestamptz,
    totp_step      bigint NOT NULL DEFAULT 0,
    created_at     timestamptz NOT NULL,
    updated_at     timestamptz NOT NULL,
    -- Erased: the row stays as the target of references, with name and address overwritten.
    deleted_at     timestamptz
);

-- A provider's word that this is the person. The account is this pair and nothing else.
CREATE TABLE account_identity (
    issuer         text NOT NULL CHECK (char_length(issuer) BETWEEN 1 AND 512),
    subject        text NOT NULL CHECK (char_length(subject) BETWEEN 1 AND 255),
    account        uuid NOT NULL REFERENCES account (id),
    -- The provider's id in the configuration, or `sso:<tenant>` for a tenant's own.
    provider       text NOT NULL,
    -- Whose own provider it is. A tenant names its issuer itself, so what that one says is another word than the same
    -- pair said by a provider of the configuration, or by another tenant's.
    tenant         uuid REFERENCES tenant (id),
    email          text,
    email_verified boolean NOT NULL DEFAULT false,
    linked_at      timestamptz NOT NULL,
    last_used_at   timestamptz NOT NULL,
    CONSTRAINT account_identity_one UNIQUE NULLS NOT DISTINCT (issuer, subject, tenant)
);
CREATE INDEX account_identity_account ON account_identity (account);

-- The second way in, where it is switched on. The address is proven before the row is made.
CREATE TABLE account_password (
    account    uuid PRIMARY KEY REFERENCES account (id),
    -- In lower case.
    email      text NOT NULL UNIQUE,
    hash       text NOT NULL,
    -- Raised by each change and reset: links sent for an older one are dead.
    version    integer NOT NULL DEFAULT 1,
    updated_at timestamptz NOT NULL
);

-- A mailed link with which a password is chosen. Asking writes the same row whether the address is known or not; what is
-- mailed, if anything, is decided when the letter is written. The link's secret is derived from the master key, the id and
-- the version of the password at that time: nothing to steal from this table.
CREATE TABLE password_link (
    id         uuid PRIMARY KEY,
    purpose    text NOT NULL CHECK (purpose IN ('sign_up', 'reset', 'add')),
    -- In lower case.
    email      text NOT NULL CHECK (char_length(email) BETWEEN 3 AND 254),
    -- Who wants a password beside their other ways in.
    account    uuid REFERENCES account (id),
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    used_at    timestamptz,
    CHECK ((purpose = 'add') = (account IS NOT NULL))
);
CREATE INDEX password_link_email ON password_link (email);
CREATE INDEX password_link_expires ON password_link (expires_at);

-- A person who has shown the first factor, in one browser, and not yet the second. It is no session.
CREATE TABLE second_step (
    -- SHA-256 of the browser's mark. Beginning again in the same browser replaces what was begun.
    browser_hash bytea PRIMARY KEY CHECK (octet_length(browser_hash) = 32),
    account      uuid NOT NULL REFERENCES account (id),
    -- How the first factor was shown, and what the line of the audit log will be called.
    method       text NOT NULL,
    action       text NOT NULL,
    return_to    text NOT NULL CHECK (return_to LIKE '/%' AND return_to NOT LIKE '//%'),
    expires_at   timestamptz NOT NULL
);
CREATE INDEX second_step_account ON second_step (account);
CREATE INDEX second_step_expires ON second_step (expires_at);

-- One recovery code per row, each good once.
CREATE TABLE account_recovery_code (
    account   uuid NOT NULL REFERENCES account (id),
    code_hash bytea NOT NULL CHECK (octet_length(code_hash) = 32),
    used_at   timestamptz,
    PRIMARY KEY (account, code_hash)
);

-- A sign-in on its way to a provider and back. One use, ten minutes, one browser.
CREATE TABLE sign_in (
    state_hash   bytea PRIMARY KEY CHECK (octet_length(state_hash) = 32),
    -- SHA-256 of the cookie of the browser that began it.
    browser_hash bytea NOT NULL CHECK (octet_length(browser_hash) = 32),
    -- A provider of the configuration, or `sso:<tenant>`.
    provider     text NOT NULL,
    tenant       uuid REFERENCES tenant (id),
    -- Nonce and PKCE verifier, sealed.
    secrets      bytea NOT NULL,
    -- sign_in; link: adds a provider to `account`; confirm: a fresh sign-in of `account` before something grave.
    purpose      text NOT NULL CHECK (purpose IN ('sign_in', 'link', 'confirm', 'operator')),
    account      uuid REFERENCES account (id),
    -- A path of ours, checked before it is stored.
    return_to    text NOT NULL CHECK (return_to LIKE '/%' AND return_to NOT LIKE '//%'),
    created_at   timestamptz NOT NULL,
    expires_at   timestamptz NOT NULL,
    used_at      timestamptz,
    CHECK ((purpose IN ('link', 'confirm')) = (account IS NOT NULL))
);
CREATE INDEX sign_in_expires ON sign_in (expires_at);

-- A signed-in device. `base` is the browser at the sign-in host; `tenant` the same browser at one tenant's host, which
-- ends with its base session; `cli` a terminal.
CREATE TABLE session (
    id               uuid PRIMARY KEY,
    account          uuid NOT NULL REFERENCES account (id),
    kind             text NOT NULL CHECK (kind IN ('base', 'tenant', 'cli')),
    parent           uuid REFERENCES session (id),
    tenant           uuid REFERENCES tenant (id),
    token_hash       bytea UNIQUE CHECK (octet_length(token_hash) = 32),
    -- `oidc:google`, `password`, `sso:<tenant>`, which enters that tenant only; and whether a second factor was shown.
    method           text NOT NULL,
    second_factor    boolean NOT NULL DEFAULT false,
    user_agent       text NOT NULL DEFAULT '',
    address          text NOT NULL DEFAULT '',
    -- When the person last proved who they are; grave changes want this to be recent.
    authenticated_at timestamptz NOT NULL,
    created_at       timestamptz NOT NULL,
    last_seen_at     timestamptz NOT NULL,
    expires_at       timestamptz NOT NULL,
    revoked_at       timestamptz,
    CHECK ((kind = 'tenant') = (parent IS NOT NULL)),
    CHECK (kind <> 'tenant' OR tenant IS NOT NULL),
    CHECK ((kind IN ('base', 'tenant')) = (token_hash IS NOT NULL))
);
CREATE INDEX session_account ON session (account, created_at);
CREATE INDEX session_parent ON session (parent) WHERE parent IS NOT NULL;
CREATE INDEX session_expires ON session (expires_at);

-- From the sign-in host to a tenant's host: one use, half a minute.
CREATE TABLE hand_off (
    code_hash  bytea PRIMARY KEY CHECK (octet_length(code_hash) = 32),
    session    uuid NOT NULL REFERENCES session (id),
    tenant     uuid NOT NULL REFERENCES tenant (id),
    -- SHA-256 of the mark that the browser has at the tenant's host: the code is of no use in another.
    browser_hash bytea NOT NULL CHECK (octet_length(browser_hash) = 32),
    return_to  text NOT NULL CHECK (return_to LIKE '/%' AND return_to NOT LIKE '//%'),
    expires_at timestamptz NOT NULL,
    used_at    timestamptz
);
CREATE INDEX hand_off_expires ON hand_off (expires_at);

-- A terminal's sign-in (RFC 8628): shown as a short code, approved in a browser.
CREATE TABLE device_code (
    code_hash   bytea PRIMARY KEY CHECK (octet_length(code_hash) = 32),
    user_code   text NOT NULL UNIQUE,
    client_name text NOT NULL,
    created_at  timestamptz NOT NULL,
    expires_at  timestamptz NOT NULL,
    polled_at   timestamptz,
    -- The person's answer, and the browser session it was given from: the terminal's session begins as that one did.
    account     uuid REFERENCES account (id),
    approved_by uuid REFERENCES session (id) ON DELETE CASCADE,
    denied      boolean NOT NULL DEFAULT false,
    used_at     timestamptz,
    CHECK (approved_by IS NULL OR account IS NOT NULL)
);
CREATE INDEX device_code_expires ON device_code (expires_at);

-- Rotating: each is good once. One that comes a second time, later than a moment, ends its session.
CREATE TABLE refresh_token (
    token_hash bytea PRIMARY KEY CHECK (octet_length(token_hash) = 32),
    session    uuid NOT NULL REFERENCES session (id),
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    used_at    timestamptz
);
CREATE INDEX refresh_token_session ON refresh_token (session);
CREATE INDEX refresh_token_expires ON refresh_token (expires_at);

-- What a person or a stranger may try only so often, as the theoretical arrival time of the generic cell rate algorithm:
-- one count for all servers.
CREATE TABLE throttle (
    subject text PRIMARY KEY CHECK (char_length(subject) BETWEEN 1 AND 200),
    tat     timestamptz NOT NULL
);
CREATE INDEX throttle_tat ON throttle (tat);

-- Tries that may fail: after a few, each makes the next wait longer. Forgotten after a while, or when one succeeds.
CREATE TABLE tries (
    subject   text PRIMARY KEY CHECK (char_length(subject) BETWEEN 1 AND 200),
    count     integer NOT NULL,
    next_at   timestamptz NOT NULL,
    forget_at timestamptz NOT NULL
);
CREATE INDEX tries_forget ON tries (forget_at);

-- Keys that access tokens are signed with. A new one is published before it signs; an old one stays published until all
-- it signed has expired.
CREATE TABLE signing_key (
    kid         text PRIMARY KEY,
    public_jwk  jsonb NOT NULL,
    -- PKCS#8, sealed.
    private_key bytea NOT NULL,
    created_at  timestamptz NOT NULL,
    signs_from  timestamptz NOT NULL,
    retired_at  timestamptz
);

-- A person's seat in a tenant.
CREATE TABLE membership (
    tenant     uuid NOT NULL REFERENCES tenant (id),
    account    uuid NOT NULL REFERENCES account (id),
    role       text NOT NULL CHECK (role IN ('viewer', 'member', 'manager', 'admin', 'owner')),
    joined_at  timestamptz NOT NULL,
    invited_by uuid REFERENCES account (id),
    PRIMARY KEY (tenant, account)
);
CREATE INDEX membership_account ON membership (account);

-- A workspace whose own rows may still name a person who was erased: the row goes when the product has forgotten them, or
-- with the workspace.
CREATE TABLE erasure (
    tenant   uuid NOT NULL REFERENCES tenant (id),
    account  uuid NOT NULL REFERENCES account (id),
    asked_at timestamptz NOT NULL,
    PRIMARY KEY (tenant, account)
);
CREATE INDEX erasure_account ON erasure (account);

-- The link's secret is derived from the master key, the id and the version: nothing to steal from this table.
CREATE TABLE invitation (
    id          uuid PRIMARY KEY,
    tenant      uuid NOT NULL REFERENCES tenant (id),
    -- In lower case.
    email       text NOT NULL CHECK (char_length(email) BETWEEN 3 AND 254),
    role        text NOT NULL CHECK (role IN ('viewer', 'member', 'manager', 'admin', 'owner')),
    version     integer NOT NULL DEFAULT 1,
    invited_by  uuid NOT NULL REFERENCES account (id),
    created_at  timestamptz NOT NULL,
    expires_at  timestamptz NOT NULL,
    accepted_at timestamptz,
    accepted_by uuid REFERENCES account (id),
    revoked_at  timestamptz
);
CREATE INDEX invitation_tenant ON invitation (tenant, created_at);
CREATE UNIQUE INDEX invitation_one_open ON invitation (tenant, email)
    WHERE accepted_at IS NULL AND revoked_at IS NULL;

-- A mail domain that a tenant says is its own. Proven by a DNS record; then its people may join by themselves, if the
-- tenant wants that, and single sign-on may be required of them.
CREATE TABLE email_domain (
    tenant      uuid NOT NULL REFERENCES tenant (id),
    domain      text NOT NULL CHECK (domain = lower(domain) AND char_length(domain) BETWEEN 3 AND 253),
    -- The value of the TXT record.
    challenge   text NOT NULL,
    created_at  timestamptz NOT NULL,
    verified_at timestamptz,
    -- The role of those who join by themselves; null: nobody does.
    join_role   text CHECK (join_role IN ('viewer', 'member')),
    PRIMARY KEY (tenant, domain)
);
CREATE UNIQUE INDEX email_domain_verified ON email_domain (domain) WHERE verified_at IS NOT NULL;

-- A tenant's own OpenID provider.
CREATE TABLE tenant_sso (
    tenant        uuid PRIMARY KEY REFERENCES tenant (id),
    issuer        text NOT NULL CHECK (char_length(issuer) BETWEEN 1 AND 512),
    client_id     text NOT NULL,
    -- Sealed.
    client_secret bytea NOT NULL,
    -- Members with an address of a verified domain get in by this provider only.
    enforced      boolean NOT NULL DEFAULT false,
    -- The role of those who come for the first time; null: only people who are members already.
    join_role     text CHECK (join_role IN ('viewer', 'member')),
    created_at    timestamptz NOT NULL,
    updated_at    timestamptz NOT NULL
);

-- What an operator's key may do.
ALTER TABLE operator_key
    ADD COLUMN role text NOT NULL DEFAULT 'operator' CHECK (role IN ('viewer', 'operator'));

-- The provider's staff: their own sign-in, apart from accounts.
CREATE TABLE operator (
    id          uuid PRIMARY KEY,
    name        text NOT NULL CHECK (char_length(name) BETWEEN 1 AND 120),
    -- In lower case. Until the first sign-in it says who may become this operator; after that it is for people to read.
    email       text NOT NULL CHECK (email = lower(email) AND char_length(email) BETWEEN 3 AND 254),
    role        text NOT NULL CHECK (role IN ('viewer', 'operator')),
    -- Known from the first sign-in on, and from then on the only way in.
    issuer      text,
    subject     text,
    created_at  timestamptz NOT NULL,
    disabled_at timestamptz,
    CHECK ((issuer IS NULL) = (subject IS NULL))
);
CREATE UNIQUE INDEX operator_email ON operator (email) WHERE disabled_at IS NULL;
CREATE UNIQUE INDEX operator_subject ON operator (issuer, subject) WHERE disabled_at IS NULL;

CREATE TABLE operator_session (
    id           uuid PRIMARY KEY,
    operator     uuid NOT NULL REFERENCES operator (id),
    token_hash   bytea NOT NULL UNIQUE CHECK (octet_length(token_hash) = 32),
    user_agent   text NOT NULL DEFAULT '',
    address      text NOT NULL DEFAULT '',
    created_at   timestamptz NOT NULL,
    expires_at   timestamptz NOT NULL,
    revoked_at   timestamptz
);
CREATE INDEX operator_session_operator ON operator_session (operator, created_at);
CREATE INDEX operator_session_expires ON operator_session (expires_at);

-- A look into a tenant by the provider's staff: for a reason, for a time, in the tenant's own audit log.
CREATE TABLE support_session (
    id         uuid PRIMARY KEY,
    -- The operator's id or key, as it is written into the log, and their name at the time.
    actor      text NOT NULL,
    operator   text NOT NULL CHECK (char_length(operator) BETWEEN 1 AND 120),
    tenant     uuid NOT NULL REFERENCES tenant (id),
    role       text NOT NULL CHECK (role IN ('viewer', 'member', 'manager', 'admin')),
    reason     text NOT NULL CHECK (char_length(reason) BETWEEN 3 AND 500),
    -- The link that begins it in a browser: good once, for ten minutes.
    code_hash  bytea NOT NULL UNIQUE CHECK (octet_length(code_hash) = 32),
    -- The browser's cookie at the tenant's host, once the link was opened.
    token_hash bytea UNIQUE CHECK (octet_length(token_hash) = 32),
    created_at timestamptz NOT NULL,
    entered_at timestamptz,
    expires_at timestamptz NOT NULL,
    ended_at   timestamptz,
    CHECK ((token_hash IS NULL) = (entered_at IS NULL)),
    CHECK (expires_at <= created_at + interval '4 hours')
);
CREATE INDEX support_session_tenant ON support_session (tenant, id);
CREATE INDEX support_session_live ON support_session (expires_at) WHERE ended_at IS NULL;

-- The audit chains: one for each tenant; one for each person, for what concerns them and no tenant (signing in above all,
-- which must not wait for everybody else's); one, all zeros, for the platform. This is the last link of each. Its row is
-- the lock that puts the lines of its chain in order. See docs/adr/0008-audit-chains.md.
CREATE TABLE audit_head (
    chain uuid PRIMARY KEY,
    seq   bigint NOT NULL CHECK (seq >= 0),
    hash  bytea NOT NULL CHECK (octet_length(hash) = 32)
) WITH (fillfactor = 50);
-- Chains that have to be there: one that is gone as a whole is missed.
INSERT INTO audit_head (chain, seq, hash)
SELECT id, 0, decode(repeat('00', 32), 'hex') FROM tenant
UNION ALL SELECT '00000000-0000-0000-0000-000000000000', 0, decode(repeat('00', 32), 'hex');

-- Lines from before the chains have no link; how many there are.
CREATE TABLE audit_before (lines bigint NOT NULL);
INSERT INTO audit_before (lines) SELECT count(*) FROM audit;

-- Each hash covers the line, its number, and the hash before it.
ALTER TABLE audit
    ADD COLUMN chain    uuid,
    ADD COLUMN seq      bigint,
    ADD COLUMN hash     bytea CHECK (octet_length(hash) = 32),
    -- Of what is in audit_personal about this line: SHA-256 over a salt and it.
    ADD COLUMN personal bytea CHECK (octet_length(personal) = 32),
    ADD CONSTRAINT audit_linked CHECK (chain IS NOT NULL AND seq IS NOT NULL AND hash IS NOT NULL) NOT VALID;
CREATE UNIQUE INDEX audit_chain ON audit (chain, seq);
CREATE INDEX audit_tenant_id ON audit (tenant, id);

-- What a line says of a person beyond ids (addresses). Apart from the line, so that it can be forgotten and the chain stays
-- whole. No reference to audit: the check of one wants the right to change it.
CREATE TABLE audit_personal (
    line    uuid PRIMARY KEY,
    -- Whose it is; or whoever has this address, in lower case.
    account uuid,
    email   text,
    salt    bytea NOT NULL CHECK (octet_length(salt) = 16),
    data    jsonb NOT NULL
);
CREATE INDEX audit_personal_account ON audit_personal (account) WHERE account IS NOT NULL;
CREATE INDEX audit_personal_email ON audit_personal (email) WHERE email IS NOT NULL;

-- Refused three times over: the owner of the table itself has no right to it, the trigger refuses whoever has, and
-- `freehold audit verify` finds what a superuser did all the same.
REVOKE UPDATE, DELETE, TRUNCATE ON audit FROM PUBLIC, CURRENT_USER;
REVOKE DELETE, TRUNCATE ON audit_head FROM PUBLIC, CURRENT_USER;
CREATE FUNCTION audit_head_moves_on() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.chain = OLD.chain AND NEW.seq = OLD.seq + 1 THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION 'the end of an audit chain only moves on';
END $$;
CREATE TRIGGER audit_head_moves_on BEFORE UPDATE ON audit_head
    FOR EACH ROW EXECUTE FUNCTION audit_head_moves_on();
CREATE TRIGGER audit_head_stays BEFORE DELETE OR TRUNCATE ON audit_head
    FOR EACH STATEMENT EXECUTE FUNCTION audit_is_append_only();

-- What a person did, for their export; where they ever had a seat, for their erasure.
CREATE INDEX audit_actor ON audit (actor, id);
CREATE INDEX audit_joined ON audit (subject) WHERE action = 'member.join';
CREATE INDEX api_key_maker ON api_key (tenant, created_by) WHERE created_by IS NOT NULL;
CREATE INDEX invitation_inviter ON invitation (invited_by, id);
CREATE INDEX invitation_email ON invitation (email);
