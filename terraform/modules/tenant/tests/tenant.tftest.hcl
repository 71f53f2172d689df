mock_provider "aws" {
  mock_resource "aws_iam_role" {
    defaults = { arn = "arn:aws:iam::123456789012:role/test-t" }
  }
  mock_resource "aws_kms_key" {
    defaults = { arn = "arn:aws:kms:eu-central-1:123456789012:key/11111111-2222-3333-4444-555555555555" }
  }
  mock_resource "aws_secretsmanager_secret" {
    defaults = { arn = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:test/tenant-AbCdEf" }
  }
  mock_resource "aws_cloudwatch_log_group" {
    defaults = { arn = "arn:aws:logs:eu-central-1:123456789012:log-group:/test/tenant" }
  }
  mock_resource "aws_s3_bucket" {
    defaults = { arn = "arn:aws:s3:::test-t-06fqv3k1s9t4m7b2n8c5v0r6e4" }
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

run "a_pooled_tenant_is_confined_to_its_prefix" {
  command = apply
  assert {
    condition = alltrue([
      for statement in jsondecode(aws_iam_role_policy.own.policy).Statement :
      !strcontains(jsonencode(statement.Resource), "test-shared/*")
      && !contains(flatten([statement.Action]), "s3:*") && !contains(flatten([statement.Resource]), "*")
    ])
    error_message = "nothing beyond its own prefix, and no wildcard for actions or resources"
  }
  assert {
    condition = alltrue([
      for statement in jsondecode(aws_iam_role_policy.own.policy).Statement :
      statement.Condition.StringLike["s3:prefix"] == "tenants/ten_06fqv3k1s9t4m7b2n8c5v0r6e4/*"
      if try(statement.Action, "") == "s3:ListBucket"
    ])
    error_message = "listing is confined as well"
  }
  assert {
    condition     = length(aws_s3_bucket.own) == 0 && length(aws_kms_key.own) == 0
    error_message = "a pooled tenant has no bucket and no key: each takes a minute to make"
  }
}

run "only_the_application_takes_on_the_role_and_says_for_whom" {
  command = apply
  assert {
    condition = (
      jsondecode(aws_iam_role.this.assume_role_policy).Statement[0].Principal.AWS
      == "arn:aws:iam::123456789012:role/test-app-task"
      && jsondecode(aws_iam_role.this.assume_role_policy).Statement[0].Condition.StringEquals["sts:ExternalId"]
      == "ten_06fqv3k1s9t4m7b2n8c5v0r6e4"
    )
    error_message = "one principal, with the tenant's id as the external id"
  }
}

run "a_dedicated_tenant_has_a_key_and_a_bucket" {
  command = apply
  variables {
    tenant = { id = "ten_06fqv3k1s9t4m7b2n8c5v0r6e4", slug = "acme", tier = "dedicated" }
  }
  assert {
    condition     = output.tenant.bucket == "test-t-06fqv3k1s9t4m7b2n8c5v0r6e4" && output.tenant.object_prefix == ""
    error_message = "a bucket of its own, all of it"
  }
  assert {
    condition = (
      aws_s3_bucket_public_access_block.own[0].restrict_public_buckets
      && aws_kms_key.own[0].enable_key_rotation && !aws_s3_bucket.own[0].force_destroy
    )
    error_message = "shut, its key rotates, and it is not emptied by accident"
  }
  assert {
    condition = !anytrue([
      for statement in jsondecode(aws_iam_role_policy.own.policy).Statement :
      strcontains(jsonencode(statement.Resource), "test-shared")
    ])
    error_message = "nothing of the shared bucket"
  }
}

run "names_do_not_change_with_the_slug" {
  command = apply
  variables {
    tenant = { id = "ten_06fqv3k1s9t4m7b2n8c5v0r6e4", slug = "renamed", tier = "pooled" }
  }
  assert {
    condition     = aws_iam_role.this.name == "test-t-06fqv3k1s9t4m7b2n8c5v0r6e4"
    error_message = "by id"
  }
}

run "another_tier_is_refused" {
  command = plan
  variables {
    tenant = { id = "ten_06fqv3k1s9t4m7b2n8c5v0r6e4", slug = "acme", tier = "gold" }
  }
  expect_failures = [var.tenant]
}

run "an_id_is_an_id" {
  command = plan
  variables {
    tenant = { id = "ten_../other", slug = "acme", tier = "pooled" }
  }
  expect_failures = [var.tenant]
}
