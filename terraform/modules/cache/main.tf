locals {
  name = "${var.environment}-cache"
}

resource "aws_elasticache_subnet_group" "this" {
  name        = local.name
  description = "Subnets of ${local.name}"
  subnet_ids  = var.network.data_subnet_ids
}

resource "aws_security_group" "this" {
  name        = local.name
  description = "Redis of ${var.environment}"
  vpc_id      = var.network.vpc_id
  tags        = { Name = local.name }
}

resource "aws_vpc_security_group_ingress_rule" "redis" {
  for_each                     = var.network.client_security_group_ids
  security_group_id            = aws_security_group.this.id
  referenced_security_group_id = each.value
  description                  = "Redis from ${each.key}"
  ip_protocol                  = "tcp"
  from_port                    = 6379
  to_port                      = 6379
}

resource "aws_elasticache_parameter_group" "this" {
  name        = "${local.name}-valkey7"
  family      = "valkey7"
  description = "Settings of ${local.name}"

  # Full memory drops the oldest limits, which are made anew; it refuses nothing.
  parameter {
    name  = "maxmemory-policy"
    value = "allkeys-lru"
  }
}

resource "aws_elasticache_replication_group" "this" {
  #checkov:skip=CKV_AWS_31:a token would be in the state; one security group is let in, by TLS, and rate limits are all that is kept
  #checkov:skip=CKV_AWS_191:AWS's own key encrypts it; rate limits are all that is kept
  #checkov:skip=CKV2_AWS_50:on with two nodes, the default: see the test encrypted_and_able_to_lose_a_zone
  replication_group_id = local.name
  description          = "Rate limits of ${var.environment}"

  engine               = "valkey"
  engine_version       = var.cache.engine_version
  node_type            = var.cache.node_type
  num_cache_clusters   = var.cache.nodes
  parameter_group_name = aws_elasticache_parameter_group.this.name
  port                 = 6379

  automatic_failover_enabled = var.cache.nodes > 1
  multi_az_enabled           = var.cache.nodes > 1
  subnet_group_name          = aws_elasticache_subnet_group.this.name
  security_group_ids         = [aws_security_group.this.id]

  at_rest_encryption_enabled = true
  transit_encryption_enabled = true
  transit_encryption_mode    = "required"

  # What it holds is worth seconds: no snapshots.
  snapshot_retention_limit   = 0
  maintenance_window         = var.cache.maintenance_window
  auto_minor_version_upgrade = true
  apply_immediately          = false
  tags                       = { Name = local.name }
}
