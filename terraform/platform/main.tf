# What an environment has once: the network, the control database, Redis, the application, the bucket of pooled tenants.
# The workspace is the environment's name.

provider "aws" {
  default_tags {
    tags = {
      "freehold:environment" = var.environment
      "freehold:managed-by"  = "terraform"
    }
  }
}

data "aws_caller_identity" "here" {}
data "aws_region" "here" {}

locals {
  shared_bucket = "${var.environment}-freehold-${data.aws_caller_identity.here.account_id}"
}

module "network" {
  source      = "../modules/network"
  environment = var.environment
  network     = var.network
}

# The control database is a PostgreSQL server like any other; its name says what it is for.
module "control" {
  source         = "../modules/shard"
  environment    = var.environment
  admin_password = var.control_admin_password
  shard = merge(var.control, {
    deletion_protection    = var.deletion_protection
    name                   = "control"
    admin_database         = "freehold"
    admin_password_version = var.control_admin_password_version
    alarm_topic_arn        = var.app.alarm_topic_arn
  })
  network = {
    vpc_id                    = module.network.network.vpc_id
    data_subnet_ids           = module.network.network.data_subnet_ids
    client_security_group_ids = { app = module.network.network.app_security_group_id }
  }
}

module "cache" {
  source      = "../modules/cache"
  environment = var.environment
  cache       = var.cache
  network = {
    vpc_id                    = module.network.network.vpc_id
    data_subnet_ids           = module.network.network.data_subnet_ids
    client_security_group_ids = { app = module.network.network.app_security_group_id }
  }
}

module "app" {
  source      = "../modules/app"
  environment = var.environment
  app         = merge(var.app, { deletion_protection = var.deletion_protection })
  settings    = var.app.settings
  network = {
    vpc_id                = module.network.network.vpc_id
    public_subnet_ids     = module.network.network.public_subnet_ids
    task_subnet_ids       = module.network.network.task_subnet_ids
    app_security_group_id = module.network.network.app_security_group_id
  }
  secrets = merge(var.app.secret_arns, {
    # By what holds the value, so that no task is started before there is one.
    FREEHOLD_MASTER_KEY  = aws_secretsmanager_secret_version.master_key.arn
    FREEHOLD_CONTROL_URL = module.control.shard.admin_secret_arn
    FREEHOLD_REDIS_URL   = aws_secretsmanager_secret_version.redis_url.arn
  })
  worker_secrets = {
    for name, shard in var.shards :
    "FREEHOLD_SHARD_${upper(replace(name, "-", "_"))}" => shard.admin_secret_arn
  }
  secret_kms_key_arns     = concat([aws_kms_key.secrets.arn, module.control.shard.kms_key_arn], [for shard in var.shards : shard.kms_key_arn])
  tenant_role_arn_pattern = "arn:aws:iam::${data.aws_caller_identity.here.account_id}:role/${var.environment}-t-*"
  shared_bucket_arn       = aws_s3_bucket.shared.arn
}

# Of its own, so that who may read the master key is said by name.
resource "aws_kms_key" "secrets" {
  #checkov:skip=CKV2_AWS_64:the default policy leaves it to the account's IAM, whose policies name this key
  description         = "The platform's secrets of ${var.environment}"
  enable_key_rotation = true
  tags                = { Name = "${var.environment}-secrets" }
}

resource "aws_kms_alias" "secrets" {
  name          = "alias/${var.environment}-secrets"
  target_key_id = aws_kms_key.secrets.key_id
}

resource "aws_secretsmanager_secret" "master_key" {
  #checkov:skip=CKV2_AWS_57:it cannot be replaced: what it derives would be another password for every tenant
  name        = "${var.environment}/master-key"
  description = "What tenants' passwords are derived from. Losing it locks every tenant out"
  kms_key_id  = aws_kms_key.secrets.arn
}

resource "aws_secretsmanager_secret_version" "master_key" {
  secret_id        = aws_secretsmanager_secret.master_key.id
  secret_string_wo = var.master_key
  # Written once. Another key would lock every tenant out, and nothing that is rotated may take it along.
  secret_string_wo_version = 1
  lifecycle {
    ignore_changes = [secret_string_wo_version]
  }
}

resource "aws_secretsmanager_secret" "redis_url" {
  #checkov:skip=CKV2_AWS_57:an address; there is no password in it
  name        = "${var.environment}/redis-url"
  description = "Where the rate limits are kept"
  kms_key_id  = aws_kms_key.secrets.arn
}

resource "aws_secretsmanager_secret_version" "redis_url" {
  secret_id     = aws_secretsmanager_secret.redis_url.id
  secret_string = module.cache.cache.url
}

resource "aws_s3_bucket" "shared" {
  #checkov:skip=CKV_AWS_18:who reads is in CloudTrail; objects are reached by tenants' roles alone
  #checkov:skip=CKV_AWS_144:one region; versions and the rows that name the objects are kept in it
  #checkov:skip=CKV2_AWS_62:nobody listens to it
  bucket        = local.shared_bucket
  force_destroy = !var.deletion_protection
}

resource "aws_s3_bucket_public_access_block" "shared" {
  bucket                  = aws_s3_bucket.shared.id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_versioning" "shared" {
  bucket = aws_s3_bucket.shared.id
  versioning_configuration {
    status = "Enabled"
  }
}

resource "aws_s3_bucket_lifecycle_configuration" "shared" {
  bucket = aws_s3_bucket.shared.id
  rule {
    id     = "leftovers"
    status = "Enabled"
    filter {}
    # What was replaced or deleted can be had back for this long, and is gone then.
    noncurrent_version_expiration {
      noncurrent_days = 90
    }
    abort_incomplete_multipart_upload {
      days_after_initiation = 7
    }
  }
  depends_on = [aws_s3_bucket_versioning.shared]
}

resource "aws_s3_bucket_server_side_encryption_configuration" "shared" {
  bucket = aws_s3_bucket.shared.id
  rule {
    apply_server_side_encryption_by_default {
      sse_algorithm = "aws:kms"
    }
    bucket_key_enabled = true
  }
}

resource "aws_s3_bucket_policy" "shared" {
  bucket = aws_s3_bucket.shared.id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Deny"
      Principal = "*"
      Action    = "s3:*"
      Resource  = [aws_s3_bucket.shared.arn, "${aws_s3_bucket.shared.arn}/*"]
      Condition = { Bool = { "aws:SecureTransport" = "false" } }
    }]
  })
}
