mock_provider "aws" {
  mock_data "aws_region" {
    defaults = { name = "eu-central-1" }
  }
  mock_resource "aws_iam_role" {
    defaults = { arn = "arn:aws:iam::123456789012:role/test-app" }
  }
  mock_resource "aws_cloudwatch_log_group" {
    defaults = { arn = "arn:aws:logs:eu-central-1:123456789012:log-group:/test/app" }
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
  environment = "test"
  app = {
    image          = "123456789012.dkr.ecr.eu-central-1.amazonaws.com/freehold@sha256:0000000000000000000000000000000000000000000000000000000000000000"
    base_domain    = "example.com"
    hosted_zone_id = "Z1"
  }
  network = {
    vpc_id                = "vpc-1"
    public_subnet_ids     = ["subnet-1", "subnet-2"]
    task_subnet_ids       = ["subnet-3", "subnet-4"]
    app_security_group_id = "sg-app"
  }
  secrets = {
    FREEHOLD_MASTER_KEY = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:test/master-AbCdEf"
  }
  tenant_role_arn_pattern = "arn:aws:iam::123456789012:role/test-t-*"
  shared_bucket_arn       = "arn:aws:s3:::test-shared"
}

run "secrets_are_named_and_never_values" {
  command = apply
  assert {
    condition = alltrue([
      for name, task in aws_ecs_task_definition.this :
      !contains([for entry in jsondecode(task.container_definitions)[0].environment : entry.name], "FREEHOLD_MASTER_KEY")
      && jsondecode(task.container_definitions)[0].secrets[0].valueFrom == var.secrets.FREEHOLD_MASTER_KEY
    ])
    error_message = "the master key is a reference"
  }
}

run "tasks_are_nobody_and_write_nothing" {
  command = apply
  assert {
    condition = alltrue([
      for task in aws_ecs_task_definition.this :
      jsondecode(task.container_definitions)[0].readonlyRootFilesystem
      && jsondecode(task.container_definitions)[0].user == "65532:65532"
    ])
    error_message = "not root, and a root file system that cannot be written"
  }
}

run "the_shards_admins_are_the_workers_alone" {
  command = apply
  variables {
    worker_secrets = {
      FREEHOLD_SHARD_EU_1 = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:test/shard/eu-1/admin-AbCdEf"
    }
  }
  assert {
    condition = {
      for name, task in aws_ecs_task_definition.this :
      name => [for secret in jsondecode(task.container_definitions)[0].secrets : secret.name]
      } == {
      server = ["FREEHOLD_MASTER_KEY"]
      worker = ["FREEHOLD_MASTER_KEY", "FREEHOLD_SHARD_EU_1"]
    }
    error_message = "the server, which answers strangers, has no admin's DSN"
  }
}

run "each_container_is_asked_by_its_own_program" {
  command = apply
  assert {
    condition = {
      for name, task in aws_ecs_task_definition.this :
      name => jsondecode(task.container_definitions)[0].healthCheck.command
      } == {
      server = ["CMD", "/usr/local/bin/freehold", "health", "--live"]
      worker = ["CMD", "/usr/local/bin/freehold", "health"]
    }
    error_message = "a server is asked for life, a worker for work"
  }
  assert {
    condition = alltrue([
      for task in aws_ecs_task_definition.this : jsondecode(task.container_definitions)[0].stopTimeout == 60
    ])
    error_message = "ECS waits for grace and drain, and a little longer"
  }
}

run "what_takes_longer_to_stop_than_ecs_waits_is_refused" {
  command = plan
  variables {
    app = {
      image          = "123456789012.dkr.ecr.eu-central-1.amazonaws.com/freehold@sha256:0000000000000000000000000000000000000000000000000000000000000000"
      base_domain    = "example.com"
      hosted_zone_id = "Z1"
      grace_seconds  = 30
      drain_seconds  = 90
    }
  }
  expect_failures = [var.app]
}

run "the_program_reaches_tenants_objects_only_as_the_tenant" {
  command = apply
  assert {
    condition = [
      for statement in jsondecode(aws_iam_role_policy.task.policy).Statement : "${statement.Effect} ${statement.Action}"
    ] == ["Allow sts:AssumeRole", "Deny s3:*"]
    error_message = "one thing allowed, one refused"
  }
}

run "new_servers_come_before_old_ones_go" {
  command = apply
  assert {
    condition = (
      aws_ecs_service.server.deployment_minimum_healthy_percent == 100
      && aws_ecs_service.server.deployment_circuit_breaker[0].rollback
      && aws_lb_target_group.server.health_check[0].path == "/health/ready"
    )
    error_message = "no request is lost, and a bad version is taken back"
  }
}

run "every_tenant_is_below_one_wildcard" {
  command = apply
  assert {
    condition     = toset(keys(aws_route53_record.app)) == toset(["example.com", "*.example.com"])
    error_message = "no record for each tenant"
  }
}

run "an_image_is_named_by_its_digest" {
  command = plan
  variables {
    app = { image = "freehold:latest", base_domain = "example.com", hosted_zone_id = "Z1" }
  }
  expect_failures = [var.app]
}

run "a_deployment_never_opens_more_connections_than_a_shard_has" {
  command = plan
  variables {
    app = {
      image          = "123456789012.dkr.ecr.eu-central-1.amazonaws.com/freehold@sha256:0000000000000000000000000000000000000000000000000000000000000000"
      base_domain    = "example.com"
      hosted_zone_id = "Z1"
      broker_budget  = 40
    }
  }
  expect_failures = [var.app]
}

run "the_recipe_before_stays_good" {
  command = apply
  assert {
    condition     = alltrue([for task in aws_ecs_task_definition.this : task.skip_destroy])
    error_message = "ECS goes back to the recipe before"
  }
}

run "the_balancer_lets_go_first_and_is_protected" {
  command = apply
  assert {
    condition     = aws_lb.this.idle_timeout == 60 && aws_lb.this.enable_deletion_protection
    error_message = "the server keeps an idle connection for 75 s"
  }
}

run "an_image_s_repository_may_have_a_path" {
  command = apply
  variables {
    app = {
      image          = "123456789012.dkr.ecr.eu-central-1.amazonaws.com/team/freehold:7@sha256:0000000000000000000000000000000000000000000000000000000000000000"
      base_domain    = "example.com"
      hosted_zone_id = "Z1"
    }
  }
  assert {
    condition     = strcontains(aws_iam_role_policy.start.policy, ":repository/team/freehold\"")
    error_message = "the whole path, without tag and digest"
  }
}
