# What SQL cannot make of a tenant. Pooled: a role that reaches the tenant's own prefix of the shared bucket and nothing
# else, a secret, a log group. Dedicated: a key and a bucket of its own as well. Never a database server: that is a shard.

locals {
  # Buckets know no underscore, and roles at most 64 characters.
  bare      = trimprefix(var.tenant.id, "ten_")
  name      = "${var.environment}-t-${local.bare}"
  dedicated = var.tenant.tier == "dedicated"
  prefix    = "tenants/${var.tenant.id}/"
  shared    = "arn:aws:s3:::${var.platform.shared_bucket}"

  on_objects = ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"]
}

resource "aws_iam_role" "this" {
  name        = local.name
  description = "Reaches the objects and the secret of one tenant"
  # The application takes it on for one tenant's request, and for that tenant only.
  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Principal = { AWS = "arn:aws:iam::${var.platform.account_id}:role/${var.platform.app_task_role_id}" }
      Action    = "sts:AssumeRole"
      Condition = { StringEquals = { "sts:ExternalId" = var.tenant.id } }
    }]
  })
  max_session_duration  = 3600
  force_detach_policies = true
}

resource "aws_iam_role_policy" "own" {
  name = "own"
  role = aws_iam_role.this.id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = concat(
      # Pooled: one prefix of the shared bucket.
      flatten([for prefix in local.dedicated ? [] : [local.prefix] : [
        {
          Effect   = "Allow"
          Action   = local.on_objects
          Resource = "${local.shared}/${prefix}*"
        },
        {
          Effect    = "Allow"
          Action    = "s3:ListBucket"
          Resource  = local.shared
          Condition = { StringLike = { "s3:prefix" = "${prefix}*" } }
        },
      ]]),
      # Dedicated: a bucket and its key.
      flatten([for bucket in aws_s3_bucket.own : [
        {
          Effect   = "Allow"
          Action   = local.on_objects
          Resource = "${bucket.arn}/*"
        },
        {
          Effect   = "Allow"
          Action   = "s3:ListBucket"
          Resource = bucket.arn
        },
      ]]),
      [for key in aws_kms_key.own : {
        Effect   = "Allow"
        Action   = ["kms:GenerateDataKey", "kms:Decrypt"]
        Resource = key.arn
      }],
      [
        {
          Effect   = "Allow"
          Action   = "secretsmanager:GetSecretValue"
          Resource = aws_secretsmanager_secret.this.arn
        },
        {
          Effect   = "Allow"
          Action   = ["logs:CreateLogStream", "logs:PutLogEvents"]
          Resource = "${aws_cloudwatch_log_group.this.arn}:*"
        },
      ],
    )
  })
}

resource "aws_secretsmanager_secret" "this" {
  #checkov:skip=CKV2_AWS_57:another value is applied and processes are started anew (docs/DEPLOY.md): a timer could do only the first
  name                    = "${var.environment}/tenant/${var.tenant.id}"
  description             = "What the application keeps for one tenant"
  kms_key_id              = local.dedicated ? aws_kms_key.own[0].arn : null
  recovery_window_in_days = var.tenant.secret_recovery_days
}

resource "aws_secretsmanager_secret_version" "this" {
  secret_id                = aws_secretsmanager_secret.this.id
  secret_string_wo         = var.tenant_secret
  secret_string_wo_version = var.tenant.secret_version
}

resource "aws_cloudwatch_log_group" "this" {
  #checkov:skip=CKV_AWS_158:AWS's own key encrypts it; what is logged holds no rows and no secrets (docs/SECURITY.md)
  name              = "/${var.environment}/tenant/${var.tenant.id}"
  retention_in_days = var.tenant.log_days
}
