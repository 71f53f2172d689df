# What only a dedicated tenant has: whoever takes the key away takes the data away.

resource "aws_kms_key" "own" {
  #checkov:skip=CKV2_AWS_64:the default policy leaves it to the account's IAM, whose policies name this key
  count                   = local.dedicated ? 1 : 0
  description             = "Objects and secret of ${local.name}"
  enable_key_rotation     = true
  deletion_window_in_days = var.tenant.kms_deletion_days
  tags                    = { Name = local.name }
}

resource "aws_kms_alias" "own" {
  count         = local.dedicated ? 1 : 0
  name          = "alias/${local.name}"
  target_key_id = aws_kms_key.own[0].key_id
}

resource "aws_s3_bucket" "own" {
  #checkov:skip=CKV_AWS_18:who reads is in CloudTrail; objects are reached by tenants' roles alone
  #checkov:skip=CKV_AWS_144:one region; versions and the rows that name the objects are kept in it
  #checkov:skip=CKV2_AWS_62:nobody listens to it
  #checkov:skip=CKV2_AWS_61:what was replaced is kept for as long as the tenant is
  count         = local.dedicated ? 1 : 0
  bucket        = local.name
  force_destroy = var.tenant.bucket_force_destroy
  tags          = { Name = local.name }
}

resource "aws_s3_bucket_public_access_block" "own" {
  count                   = local.dedicated ? 1 : 0
  bucket                  = aws_s3_bucket.own[0].id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_server_side_encryption_configuration" "own" {
  count  = local.dedicated ? 1 : 0
  bucket = aws_s3_bucket.own[0].id
  rule {
    bucket_key_enabled = true
    apply_server_side_encryption_by_default {
      sse_algorithm     = "aws:kms"
      kms_master_key_id = aws_kms_key.own[0].arn
    }
  }
}

resource "aws_s3_bucket_versioning" "own" {
  count  = local.dedicated ? 1 : 0
  bucket = aws_s3_bucket.own[0].id
  versioning_configuration {
    status = "Enabled"
  }
}

resource "aws_s3_bucket_policy" "own" {
  count  = local.dedicated ? 1 : 0
  bucket = aws_s3_bucket.own[0].id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Deny"
      Principal = "*"
      Action    = "s3:*"
      Resource  = [aws_s3_bucket.own[0].arn, "${aws_s3_bucket.own[0].arn}/*"]
      Condition = { Bool = { "aws:SecureTransport" = "false" } }
    }]
  })
}
