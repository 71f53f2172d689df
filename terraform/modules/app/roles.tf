# Two roles: one starts a task and may read its secrets, the other is the running program's.

locals {
  # registry/team/name:tag@sha256:… → team/name
  repository = regex("^[^/]+/([^:@]+)", var.app.image)[0]

  ecs_may_assume = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Principal = { Service = "ecs-tasks.amazonaws.com" }
      Action    = "sts:AssumeRole"
    }]
  })
}

resource "aws_iam_role" "start" {
  name               = "${local.name}-start"
  description        = "Pulls the image, writes logs, reads the secrets that a task is started with"
  assume_role_policy = local.ecs_may_assume
}

resource "aws_iam_role_policy" "start" {
  name = "start"
  role = aws_iam_role.start.id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = concat(
      [
        {
          # This one call knows no resource.
          Effect   = "Allow"
          Action   = "ecr:GetAuthorizationToken"
          Resource = "*"
        },
        {
          Effect   = "Allow"
          Action   = ["ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer", "ecr:BatchCheckLayerAvailability"]
          Resource = "arn:aws:ecr:${data.aws_region.here.name}:*:repository/${local.repository}"
        },
        {
          Effect   = "Allow"
          Action   = ["logs:CreateLogStream", "logs:PutLogEvents"]
          Resource = [for group in aws_cloudwatch_log_group.this : "${group.arn}:*"]
        },
        {
          Effect   = "Allow"
          Action   = "secretsmanager:GetSecretValue"
          Resource = sort(distinct(concat(values(var.secrets), values(var.worker_secrets))))
        },
      ],
      length(var.secret_kms_key_arns) == 0 ? [] : [{
        Effect   = "Allow"
        Action   = "kms:Decrypt"
        Resource = var.secret_kms_key_arns
      }],
    )
  })
}

resource "aws_iam_role" "task" {
  name               = "${local.name}-task"
  description        = "The running program: may take on a tenant's role, and may itself reach no tenant's objects"
  assume_role_policy = local.ecs_may_assume
}

resource "aws_iam_role_policy" "task" {
  name = "task"
  role = aws_iam_role.task.id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Effect   = "Allow"
        Action   = "sts:AssumeRole"
        Resource = var.tenant_role_arn_pattern
      },
      {
        Effect   = "Deny"
        Action   = "s3:*"
        Resource = [var.shared_bucket_arn, "${var.shared_bucket_arn}/*"]
      },
    ]
  })
}
