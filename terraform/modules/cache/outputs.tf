output "cache" {
  description = "Where the limits are kept."
  value = {
    url               = "rediss://${aws_elasticache_replication_group.this.primary_endpoint_address}:6379/0"
    security_group_id = aws_security_group.this.id
  }
}
