mock_provider "aws" {
  mock_data "aws_region" {
    defaults = { name = "eu-central-1" }
  }
  mock_data "aws_caller_identity" {
    defaults = { account_id = "123456789012" }
  }
  mock_resource "aws_iam_role" {
    defaults = { arn = "arn:aws:iam::123456789012:role/test" }
  }
  mock_resource "aws_kms_key" {
    defaults = { arn = "arn:aws:kms:eu-central-1:123456789012:key/11111111-2222-3333-4444-555555555555" }
  }
  mock_resource "aws_secretsmanager_secret" {
    defaults = { arn = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:test-AbCdEf" }
  }
  mock_resource "aws_cloudwatch_log_group" {
    defaults = { arn = "arn:aws:logs:eu-central-1:123456789012:log-group:/test" }
  }
  mock_resource "aws_s3_bucket" {
    defaults = { arn = "arn:aws:s3:::test-freehold-123456789012" }
  }
  mock_resource "aws_lb" {
    defaults = {
      arn        = "arn:aws:elasticloadbalancing:eu-central-1:123456789012:loadbalancer/app/test-app/1234567890abcdef"
      arn_suffix = "app/test-app/1234567890abcdef"
    }
  }
  mock_resource "aws_lb_target_group" {
    defaults = { arn = "arn:aws:elasticloadbalancing:eu-central-1:123456789012:targetgroup/test-app/1234567890abcdef" }
  }
  mock_resource "aws_acm_certificate" {
    defaults = {
      arn = "arn:aws:acm:eu-central-1:123456789012:certificate/11111111-2222-3333-4444-555555555555"
      domain_validation_options = [{
        domain_name           = "example.com"
        resource_record_name  = "_x.example.com."
        resource_record_type  = "CNAME"
        resource_record_value = "_y.acm-validations.aws."
      }]
    }
  }
  mock_resource "aws_acm_certificate_validation" {
    defaults = { certificate_arn = "arn:aws:acm:eu-central-1:123456789012:certificate/11111111-2222-3333-4444-555555555555" }
  }
  mock_resource "aws_ecs_cluster" {
    defaults = { id = "arn:aws:ecs:eu-central-1:123456789012:cluster/test-app" }
  }
  mock_resource "aws_ecs_task_definition" {
    defaults = { arn = "arn:aws:ecs:eu-central-1:123456789012:task-definition/test-app:1" }
  }
}

variables {
  environment            = "test"
  control_admin_password = "not-a-real-one"
  master_key             = "0000000000000000000000000000000000000000000000000000000000000000"
  network                = { availability_zones = ["eu-central-1a", "eu-central-1b"] }
  app = {
    image          = "123456789012.dkr.ecr.eu-central-1.amazonaws.com/freehold@sha256:0000000000000000000000000000000000000000000000000000000000000000"
    base_domain    = "example.com"
    hosted_zone_id = "Z1"
  }
}

run "the_parts_know_each_other" {
  command = apply
  assert {
    condition     = output.platform.shared_bucket == "test-freehold-123456789012"
    error_message = "the shared bucket is named by environment and account"
  }
  assert {
    condition     = keys(output.network.client_security_group_ids) == ["app"]
    error_message = "only the application reaches the databases"
  }
  assert {
    condition = alltrue([
      for output in [jsonencode(output.platform), jsonencode(output.network), jsonencode(output.app)] :
      !strcontains(output, "not-a-real-one") && !strcontains(output, "00000000000000000000000000000000")
    ])
    error_message = "no secret is in an output"
  }
}

run "a_shard_is_named_to_the_workers_and_its_key_to_who_starts_them" {
  command = apply
  variables {
    shards = {
      "eu-1" = {
        admin_secret_arn = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:test/shard/eu-1/admin-AbCdEf"
        kms_key_arn      = "arn:aws:kms:eu-central-1:123456789012:key/11111111-2222-3333-4444-555555555556"
      }
    }
  }
  assert {
    condition     = output.app.worker_secret_names == tolist(["FREEHOLD_CONTROL_URL", "FREEHOLD_MASTER_KEY", "FREEHOLD_REDIS_URL", "FREEHOLD_SHARD_EU_1"])
    error_message = "the admin's DSN, by the name that `freehold shard add --dsn env:FREEHOLD_SHARD_EU_1` is told"
  }
}

run "a_master_key_is_long" {
  command = plan
  variables {
    master_key = "secret"
  }
  expect_failures = [var.master_key]
}

run "another_password_leaves_the_master_key_alone" {
  command = apply
  variables {
    control_admin_password_version = 2
    master_key                     = "1111111111111111111111111111111111111111111111111111111111111111"
  }
  assert {
    condition     = aws_secretsmanager_secret_version.master_key.secret_string_wo_version == 1
    error_message = "the master key is written once"
  }
}

run "taken_down_only_after_it_was_said" {
  command = plan
  assert {
    condition     = !aws_s3_bucket.shared.force_destroy
    error_message = "what customers keep does not go with the platform"
  }
}
