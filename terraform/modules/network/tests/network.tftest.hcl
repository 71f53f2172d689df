mock_provider "aws" {
  mock_data "aws_region" {
    defaults = { name = "eu-central-1" }
  }
  mock_resource "aws_cloudwatch_log_group" {
    defaults = { arn = "arn:aws:logs:eu-central-1:123456789012:log-group:/test/network" }
  }
  mock_resource "aws_iam_role" {
    defaults = { arn = "arn:aws:iam::123456789012:role/test" }
  }
}

variables {
  environment = "test"
  network     = { availability_zones = ["eu-central-1a", "eu-central-1b"] }
}

run "two_zones_three_tiers" {
  command = plan
  assert {
    condition     = length(aws_subnet.public) == 2 && length(aws_subnet.tasks) == 2 && length(aws_subnet.data) == 2
    error_message = "each zone has three subnets"
  }
  assert {
    condition = length(distinct(concat(
      [for subnet in aws_subnet.public : subnet.cidr_block],
      [for subnet in aws_subnet.tasks : subnet.cidr_block],
      [for subnet in aws_subnet.data : subnet.cidr_block],
    ))) == 6
    error_message = "no two subnets share addresses"
  }
  assert {
    condition     = length(aws_nat_gateway.this) == 1
    error_message = "one NAT gateway unless more are asked for"
  }
  assert {
    condition     = alltrue([for subnet in aws_subnet.public : subnet.map_public_ip_on_launch == false])
    error_message = "nothing gets a public address by itself"
  }
}

run "a_nat_gateway_in_each_zone" {
  command = plan
  variables {
    network = { availability_zones = ["eu-central-1a", "eu-central-1b", "eu-central-1c"], nat_per_zone = true }
  }
  assert {
    condition     = length(aws_nat_gateway.this) == 3
    error_message = "a NAT gateway for each zone"
  }
}

run "one_zone_is_refused" {
  command = plan
  variables {
    network = { availability_zones = ["eu-central-1a"] }
  }
  expect_failures = [var.network]
}

run "an_environment_is_a_short_name" {
  command = plan
  variables {
    environment = "Production!"
  }
  expect_failures = [var.environment]
}
