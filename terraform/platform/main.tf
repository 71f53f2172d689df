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
    name                   = "control"
    admin_database         = "freehold"
    admin_password_version = var.secrets_version
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
  app         = var.app
  settings    = var.app.settings
  network = {
    vpc_id                = module.network.network.vpc_id
    public_subnet_ids     = module.network.network.public_subnet_ids
    task_subnet_ids       = module.network.network.task_subnet_ids
    app_security_group_id = module.network.network.app_security_group_id
  }
  secrets = merge(var.app.secret_arns, {
    FREEHOLD_MASTER_KEY  = aws_secretsmanager_secret.master_key.arn
    FREEHOLD_CONTROL_URL = module.control.shard.admin_secret_arn
    FREEHOLD_REDIS_URL   = aws_secretsmanager_secret.redis_url.arn
  })
  worker_secrets = {
    for name, shard in var.shards :
    "FREEHOLD_SHARD_${upper(replace(name, "-", "_"))}" => shard.admin_secret_arn
  }
  secret_kms_key_arns     = concat([module.control.shard.kms_key_arn], [for shard in var.shards : shard.kms_key_arn])
  tenant_role_arn_pattern = "arn:aws:iam::${data.aws_caller_identity.here.account_id}:role/${var.environment}-t-*"
  shared_bucket_arn       = aws_s3_bucket.shared.arn
}

resource "aws_secretsmanager_secret" "master_key" {
  name        = "${var.environment}/master-key"
  description = "What seals secrets at rest. Losing it loses them"
}

resource "aws_secretsmanager_secret_version" "master_key" {
  secret_id                = aws_secretsmanager_secret.master_key.id
  secret_string_wo         = var.master_key
  secret_string_wo_version = var.secrets_version
}

resource "aws_secretsmanager_secret" "redis_url" {
  name        = "${var.environment}/redis-url"
  description = "Where the rate limits are kept"
}

resource "aws_secretsmanager_secret_version" "redis_url" {
  secret_id     = aws_secretsmanager_secret.redis_url.id
  secret_string = module.cache.cache.url
}

resource "aws_s3_bucket" "shared" {
  bucket = local.shared_bucket
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
