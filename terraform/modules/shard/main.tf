# One PostgreSQL server: what `freehold shard add` is told about. Its name is fixed, so that a run that was killed finds
# it again by name.

locals {
  name  = "${var.environment}-shard-${var.shard.name}"
  major = split(".", var.shard.engine_version)[0]
}

resource "aws_kms_key" "this" {
  #checkov:skip=CKV2_AWS_64:the default policy leaves it to the account's IAM, whose policies name this key
  description             = "Data and backups of ${local.name}"
  enable_key_rotation     = true
  deletion_window_in_days = var.shard.kms_deletion_after_days
  tags                    = { Name = local.name }
}

resource "aws_kms_alias" "this" {
  name          = "alias/${local.name}"
  target_key_id = aws_kms_key.this.key_id
}

resource "aws_db_subnet_group" "this" {
  name        = local.name
  description = "Subnets of ${local.name}"
  subnet_ids  = var.network.data_subnet_ids
}

resource "aws_security_group" "this" {
  name        = local.name
  description = "PostgreSQL of ${local.name}"
  vpc_id      = var.network.vpc_id
  tags        = { Name = local.name }
}

# Who may reach it is named by group, not by address. It reaches nobody itself.
resource "aws_vpc_security_group_ingress_rule" "postgres" {
  for_each                     = var.network.client_security_group_ids
  security_group_id            = aws_security_group.this.id
  referenced_security_group_id = each.value
  description                  = "PostgreSQL from ${each.key}"
  ip_protocol                  = "tcp"
  from_port                    = 5432
  to_port                      = 5432
  tags                         = { Name = "${local.name}-${each.key}" }
}

resource "aws_db_parameter_group" "this" {
  name        = "${local.name}-${local.major}"
  family      = "postgres${local.major}"
  description = "Settings of ${local.name}"

  # A tenant is moved to another server by logical replication.
  parameter {
    name         = "rds.logical_replication"
    value        = "1"
    apply_method = "pending-reboot"
  }
  parameter {
    name         = "rds.force_ssl"
    value        = "1"
    apply_method = "immediate"
  }
  parameter {
    name         = "max_connections"
    value        = tostring(var.shard.max_connections)
    apply_method = "pending-reboot"
  }
  parameter {
    name         = "password_encryption"
    value        = "scram-sha-256"
    apply_method = "immediate"
  }
  parameter {
    name         = "log_min_duration_statement"
    value        = tostring(var.shard.log_statements_over_ms)
    apply_method = "immediate"
  }
  # Values of statements are customers' data.
  parameter {
    name         = "log_parameter_max_length"
    value        = "0"
    apply_method = "immediate"
  }
  parameter {
    name         = "log_parameter_max_length_on_error"
    value        = "0"
    apply_method = "immediate"
  }

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_cloudwatch_log_group" "postgresql" {
  #checkov:skip=CKV_AWS_158:AWS's own key encrypts it; values of statements are not logged
  name              = "/aws/rds/instance/${local.name}/postgresql"
  retention_in_days = var.shard.log_days
}

resource "aws_db_instance" "this" {
  #checkov:skip=CKV_AWS_118:Performance Insights and two alarms say what is needed; it has a price for each server
  #checkov:skip=CKV_AWS_161:tenants log in by derived passwords, thousands of them; a token from IAM lives for minutes
  #checkov:skip=CKV_AWS_133:on unless a shard says otherwise: see the test kept_and_shut_by_default
  #checkov:skip=CKV_AWS_157:on unless a shard says otherwise: see the test kept_and_shut_by_default
  #checkov:skip=CKV_AWS_226:on unless a shard says otherwise: see the test kept_and_shut_by_default
  #checkov:skip=CKV_AWS_293:on unless a shard says otherwise: see the test kept_and_shut_by_default
  #checkov:skip=CKV_AWS_353:on unless a shard says otherwise: see the test kept_and_shut_by_default
  identifier = local.name

  engine                     = "postgres"
  engine_version             = var.shard.engine_version
  auto_minor_version_upgrade = var.shard.minor_version_upgrade
  instance_class             = var.shard.instance_class
  parameter_group_name       = aws_db_parameter_group.this.name

  db_name             = var.shard.admin_database
  username            = var.shard.admin_username
  password_wo         = var.admin_password
  password_wo_version = var.shard.admin_password_version

  storage_type          = "gp3"
  storage_encrypted     = true
  kms_key_id            = aws_kms_key.this.arn
  allocated_storage     = var.shard.storage_gib
  max_allocated_storage = var.shard.storage_max_gib

  multi_az               = var.shard.multi_az
  db_subnet_group_name   = aws_db_subnet_group.this.name
  vpc_security_group_ids = [aws_security_group.this.id]
  publicly_accessible    = false
  ca_cert_identifier     = "rds-ca-rsa2048-g1"

  backup_retention_period  = var.shard.backup_days
  backup_window            = var.shard.backup_window
  maintenance_window       = var.shard.maintenance_window
  copy_tags_to_snapshot    = true
  delete_automated_backups = !var.shard.final_snapshot
  deletion_protection      = var.shard.deletion_protection
  skip_final_snapshot      = !var.shard.final_snapshot
  # By the key that it cannot be read without: a later server of this name leaves one of its own.
  final_snapshot_identifier = "${local.name}-final-${substr(aws_kms_key.this.key_id, 0, 8)}"

  enabled_cloudwatch_logs_exports = ["postgresql"]
  performance_insights_enabled    = var.shard.performance_insights
  performance_insights_kms_key_id = var.shard.performance_insights ? aws_kms_key.this.arn : null

  tags       = { Name = local.name }
  depends_on = [aws_cloudwatch_log_group.postgresql]
}

# How the worker logs in, as `freehold shard add --dsn` takes it: a file that the secret is mounted as.
resource "aws_secretsmanager_secret" "admin" {
  #checkov:skip=CKV2_AWS_57:another value is applied and processes are started anew (docs/DEPLOY.md): a timer could do only the first
  name                    = "${var.environment}/shard/${var.shard.name}/admin"
  description             = "The admin's DSN of ${local.name}"
  kms_key_id              = aws_kms_key.this.arn
  recovery_window_in_days = var.shard.secret_recovery_days
}

resource "aws_secretsmanager_secret_version" "admin" {
  secret_id = aws_secretsmanager_secret.admin.id
  secret_string_wo = format(
    "postgres://%s:%s@%s:5432/%s?sslmode=verify-full",
    var.shard.admin_username,
    urlencode(var.admin_password),
    aws_db_instance.this.address,
    var.shard.admin_database,
  )
  secret_string_wo_version = var.shard.admin_password_version
}

locals {
  alarm_actions = var.shard.alarm_topic_arn == null ? [] : [var.shard.alarm_topic_arn]
}

resource "aws_cloudwatch_metric_alarm" "storage" {
  alarm_name          = "${local.name}-storage"
  alarm_description   = "Less than a tenth of the first size is free."
  namespace           = "AWS/RDS"
  metric_name         = "FreeStorageSpace"
  dimensions          = { DBInstanceIdentifier = aws_db_instance.this.identifier }
  statistic           = "Minimum"
  period              = 300
  evaluation_periods  = 3
  comparison_operator = "LessThanThreshold"
  threshold           = var.shard.storage_gib * 1073741824 / 10
  alarm_actions       = local.alarm_actions
  ok_actions          = local.alarm_actions
}

resource "aws_cloudwatch_metric_alarm" "connections" {
  alarm_name          = "${local.name}-connections"
  alarm_description   = "More than nine tenths of the connections are open: the brokers' budgets are too large together."
  namespace           = "AWS/RDS"
  metric_name         = "DatabaseConnections"
  dimensions          = { DBInstanceIdentifier = aws_db_instance.this.identifier }
  statistic           = "Maximum"
  period              = 60
  evaluation_periods  = 5
  comparison_operator = "GreaterThanThreshold"
  threshold           = floor(var.shard.max_connections * 9 / 10)
  alarm_actions       = local.alarm_actions
  ok_actions          = local.alarm_actions
}
