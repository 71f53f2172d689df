mock_provider "aws" {
  mock_resource "aws_iam_role" {
    defaults = { arn = "arn:aws:iam::123456789012:role/test-t" }
  }
  mock_resource "aws_secretsmanager_secret" {
    defaults = { arn = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:test/tenant-AbCdEf" }
  }
  mock_resource "aws_cloudwatch_log_group" {
    defaults = { arn = "arn:aws:logs:eu-central-1:123456789012:log-group:/test/tenant" }
  }
}

variables {
  environment   = "test"
  tenant_secret = "not-a-real-one"
  tenant        = { id = "ten_06fqv3k1s9t4m7b2n8c5v0r6e4", slug = "acme", tier = "pooled" }
  platform = {
    account_id       = "123456789012"
    region           = "eu-central-1"
    shared_bucket    = "test-shared"
    app_task_role_id = "test-app-task"
  }
}

run "the_registry_learns_where_its_objects_are" {
  command = apply
  assert {
    condition = (
      output.tenant.bucket == "test-shared"
      && output.tenant.object_prefix == "tenants/ten_06fqv3k1s9t4m7b2n8c5v0r6e4/"
    )
    error_message = "the shared bucket, and its own prefix"
  }
}
