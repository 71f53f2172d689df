mock_provider "aws" {}

variables {
  environment = "test"
  network = {
    vpc_id                    = "vpc-1"
    data_subnet_ids           = ["subnet-1", "subnet-2"]
    client_security_group_ids = { app = "sg-app" }
  }
}

run "encrypted_and_able_to_lose_a_zone" {
  command = plan
  assert {
    condition = (
      aws_elasticache_replication_group.this.transit_encryption_enabled
      && aws_elasticache_replication_group.this.at_rest_encryption_enabled == "true"
      && aws_elasticache_replication_group.this.automatic_failover_enabled
      && aws_elasticache_replication_group.this.multi_az_enabled
    )
    error_message = "both kinds of encryption, and a second node that takes over"
  }
}

run "one_node_has_nobody_to_fail_over_to" {
  command = plan
  variables {
    cache = { nodes = 1 }
  }
  assert {
    condition     = !aws_elasticache_replication_group.this.automatic_failover_enabled
    error_message = "AWS refuses failover with one node"
  }
}

run "no_nodes_is_refused" {
  command = plan
  variables {
    cache = { nodes = 0 }
  }
  expect_failures = [var.cache]
}
