output "tenant" {
  description = "What the registry keeps of a tenant's resources."
  value = {
    id            = var.tenant.id
    role_arn      = aws_iam_role.this.arn
    secret_arn    = aws_secretsmanager_secret.this.arn
    log_group     = aws_cloudwatch_log_group.this.name
    bucket        = local.dedicated ? aws_s3_bucket.own[0].bucket : var.platform.shared_bucket
    object_prefix = local.dedicated ? "" : local.prefix
    kms_key_arn   = local.dedicated ? aws_kms_key.own[0].arn : null
  }
}
