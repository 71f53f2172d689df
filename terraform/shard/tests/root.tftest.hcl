mock_provider "aws" {
  mock_resource "aws_kms_key" {
    defaults = { arn = "arn:aws:kms:eu-central-1:123456789012:key/11111111-2222-3333-4444-555555555555" }
  }
  mock_resource "aws_secretsmanager_secret" {
    defaults = { arn = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:test/shard-AbCdEf" }
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

run "the_registry_learns_how_to_reach_it" {
  command = apply
  assert {
    condition     = output.shard.identifier == "test-shard-one" && output.shard.port == 5432
    error_message = "its identifier and port"
  }
  assert {
    condition     = !strcontains(jsonencode(output.shard), "not-a-real-one")
    error_message = "the password is in no output"
  }
}

run "control_is_the_platform_s" {
  command = plan
  variables {
    shard = { name = "control" }
  }
  expect_failures = [var.shard]
}
