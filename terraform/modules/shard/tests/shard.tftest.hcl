mock_provider "aws" {
  mock_resource "aws_kms_key" {
    defaults = { arn = "arn:aws:kms:eu-central-1:123456789012:key/11111111-2222-3333-4444-555555555555" }
  }
  mock_resource "aws_secretsmanager_secret" {
    defaults = { arn = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:test/shard/one/admin-AbCdEf" }
  }
}

variables {
  environment    = "test"
  admin_password = "not-a-real-one"
  shard          = { name = "one" }
  network = {
    vpc_id                    = "vpc-1"
    data_subnet_ids           = ["subnet-1", "subnet-2"]
    client_security_group_ids = { app = "sg-app" }
  }
}

run "kept_and_shut_by_default" {
  command = plan
  assert {
    condition = (
      aws_db_instance.this.deletion_protection && !aws_db_instance.this.skip_final_snapshot
      && aws_db_instance.this.multi_az && aws_db_instance.this.backup_retention_period == 14
    )
    error_message = "a shard is hard to lose unless it is asked to be easy"
  }
  assert {
    condition     = aws_db_instance.this.storage_encrypted && !aws_db_instance.this.publicly_accessible
    error_message = "encrypted, and not on the internet"
  }
  assert {
    condition     = aws_db_instance.this.identifier == "test-shard-one"
    error_message = "a name that can be found again"
  }
}

run "moves_need_logical_replication_and_logins_need_tls" {
  command = plan
  assert {
    condition = {
      for parameter in aws_db_parameter_group.this.parameter : parameter.name => parameter.value
      if contains(["rds.logical_replication", "rds.force_ssl"], parameter.name)
    } == { "rds.logical_replication" = "1", "rds.force_ssl" = "1" }
    error_message = "both are on"
  }
}

run "only_named_groups_reach_it" {
  command = plan
  assert {
    condition = alltrue([
      for rule in aws_vpc_security_group_ingress_rule.postgres :
      rule.cidr_ipv4 == null && rule.cidr_ipv6 == null && rule.from_port == 5432 && rule.to_port == 5432
    ])
    error_message = "no addresses, one port"
  }
}

run "gone_without_a_trace_when_that_is_asked" {
  command = plan
  variables {
    shard = {
      name = "one", deletion_protection = false, final_snapshot = false, secret_recovery_days = 0
    }
  }
  assert {
    condition     = !aws_db_instance.this.deletion_protection && aws_db_instance.this.skip_final_snapshot
    error_message = "the first phase of a destroy takes the protections off"
  }
}

run "a_shard_has_a_short_name" {
  command = plan
  variables {
    shard = { name = "One shard" }
  }
  expect_failures = [var.shard]
}

run "backups_are_kept_for_a_week_at_least" {
  command = plan
  variables {
    shard = { name = "one", backup_days = 1 }
  }
  expect_failures = [var.shard]
}

run "aws_may_raise_the_minor_version" {
  command = plan
  assert {
    condition     = aws_db_instance.this.auto_minor_version_upgrade && !strcontains(aws_db_instance.this.engine_version, ".")
    error_message = "a minor version here would be asked for again after AWS has raised it"
  }
}

run "a_minor_version_and_its_upgrade_exclude_each_other" {
  command = plan
  variables {
    shard = { name = "one", engine_version = "15.8" }
  }
  expect_failures = [var.shard]
}

run "an_alarm_reaches_somebody" {
  command = plan
  variables {
    shard = { name = "one", alarm_topic_arn = "arn:aws:sns:eu-central-1:123456789012:alarms" }
  }
  assert {
    condition = alltrue([
      for alarm in [aws_cloudwatch_metric_alarm.storage, aws_cloudwatch_metric_alarm.connections] :
      one(alarm.alarm_actions) == "arn:aws:sns:eu-central-1:123456789012:alarms"
    ])
    error_message = "a full disk is said to somebody"
  }
}
