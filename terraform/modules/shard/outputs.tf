output "shard" {
  description = "What `freehold shard add` is told."
  value = {
    name           = var.shard.name
    identifier     = aws_db_instance.this.identifier
    host           = aws_db_instance.this.address
    port           = 5432
    database       = var.shard.admin_database
    admin_username = var.shard.admin_username
    # By what holds the value, so that nobody is started before there is one.
    admin_secret_arn  = aws_secretsmanager_secret_version.admin.arn
    security_group_id = aws_security_group.this.id
    kms_key_arn       = aws_kms_key.this.arn
  }
}
