# Three tiers in each zone: what the internet reaches (load balancer, NAT), what runs (tasks), what keeps (databases, Redis).
# The last has no way out.

locals {
  name  = var.environment
  zones = { for index, zone in var.network.availability_zones : zone => index }
  nats  = var.network.nat_per_zone ? local.zones : { (var.network.availability_zones[0]) = 0 }
}

resource "aws_vpc" "this" {
  cidr_block           = var.network.cidr
  enable_dns_support   = true
  enable_dns_hostnames = true
  tags                 = { Name = local.name }
}

# The group that comes with a VPC lets everything through among its members: here it has no rules.
resource "aws_default_security_group" "closed" {
  vpc_id = aws_vpc.this.id
  tags   = { Name = "${local.name}-default-closed" }
}

# Servers and workers. It is made here and not beside them, because databases and Redis let it in and come first.
resource "aws_security_group" "app" {
  #checkov:skip=CKV2_AWS_5:servers and workers have it, in modules/app, where this check does not follow
  name        = "${local.name}-app"
  description = "Servers and workers of ${var.environment}"
  vpc_id      = aws_vpc.this.id
  tags        = { Name = "${local.name}-app" }
}

resource "aws_subnet" "public" {
  for_each          = local.zones
  vpc_id            = aws_vpc.this.id
  availability_zone = each.key
  cidr_block        = cidrsubnet(var.network.cidr, 4, each.value)
  # What stands here asks for its public address by name.
  map_public_ip_on_launch = false
  tags                    = { Name = "${local.name}-public-${each.key}" }
}

resource "aws_subnet" "tasks" {
  for_each          = local.zones
  vpc_id            = aws_vpc.this.id
  availability_zone = each.key
  cidr_block        = cidrsubnet(var.network.cidr, 4, 4 + each.value)
  tags              = { Name = "${local.name}-tasks-${each.key}" }
}

resource "aws_subnet" "data" {
  for_each          = local.zones
  vpc_id            = aws_vpc.this.id
  availability_zone = each.key
  cidr_block        = cidrsubnet(var.network.cidr, 4, 8 + each.value)
  tags              = { Name = "${local.name}-data-${each.key}" }
}

resource "aws_internet_gateway" "this" {
  vpc_id = aws_vpc.this.id
  tags   = { Name = local.name }
}

resource "aws_eip" "nat" {
  for_each = local.nats
  domain   = "vpc"
  tags     = { Name = "${local.name}-nat-${each.key}" }
}

resource "aws_nat_gateway" "this" {
  for_each      = local.nats
  allocation_id = aws_eip.nat[each.key].id
  subnet_id     = aws_subnet.public[each.key].id
  tags          = { Name = "${local.name}-${each.key}" }
  depends_on    = [aws_internet_gateway.this]
}

resource "aws_route_table" "public" {
  vpc_id = aws_vpc.this.id
  tags   = { Name = "${local.name}-public" }
}

resource "aws_route" "internet" {
  route_table_id         = aws_route_table.public.id
  destination_cidr_block = "0.0.0.0/0"
  gateway_id             = aws_internet_gateway.this.id
}

resource "aws_route_table_association" "public" {
  for_each       = local.zones
  subnet_id      = aws_subnet.public[each.key].id
  route_table_id = aws_route_table.public.id
}

resource "aws_route_table" "tasks" {
  for_each = local.zones
  vpc_id   = aws_vpc.this.id
  tags     = { Name = "${local.name}-tasks-${each.key}" }
}

resource "aws_route" "nat" {
  for_each               = local.zones
  route_table_id         = aws_route_table.tasks[each.key].id
  destination_cidr_block = "0.0.0.0/0"
  nat_gateway_id = try(
    aws_nat_gateway.this[each.key].id,
    aws_nat_gateway.this[var.network.availability_zones[0]].id,
  )
}

resource "aws_route_table_association" "tasks" {
  for_each       = local.zones
  subnet_id      = aws_subnet.tasks[each.key].id
  route_table_id = aws_route_table.tasks[each.key].id
}

resource "aws_route_table" "data" {
  vpc_id = aws_vpc.this.id
  tags   = { Name = "${local.name}-data" }
}

resource "aws_route_table_association" "data" {
  for_each       = local.zones
  subnet_id      = aws_subnet.data[each.key].id
  route_table_id = aws_route_table.data.id
}

# Buckets are reached without the NAT gateway: cheaper, and it stays in the network.
resource "aws_vpc_endpoint" "s3" {
  vpc_id            = aws_vpc.this.id
  vpc_endpoint_type = "Gateway"
  service_name      = "com.amazonaws.${data.aws_region.here.name}.s3"
  route_table_ids   = [for table in aws_route_table.tasks : table.id]
  tags              = { Name = "${local.name}-s3" }
}

data "aws_region" "here" {}

resource "aws_cloudwatch_log_group" "flow" {
  #checkov:skip=CKV_AWS_158:AWS's own key encrypts it; it holds addresses and ports
  name              = "/${local.name}/network"
  retention_in_days = var.network.flow_log_days
}

resource "aws_iam_role" "flow" {
  name = "${local.name}-network-flow-log"
  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Principal = { Service = "vpc-flow-logs.amazonaws.com" }
      Action    = "sts:AssumeRole"
    }]
  })
}

resource "aws_iam_role_policy" "flow" {
  name = "write"
  role = aws_iam_role.flow.id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect   = "Allow"
      Action   = ["logs:CreateLogStream", "logs:PutLogEvents", "logs:DescribeLogStreams"]
      Resource = "${aws_cloudwatch_log_group.flow.arn}:*"
    }]
  })
}

resource "aws_flow_log" "this" {
  vpc_id          = aws_vpc.this.id
  traffic_type    = "REJECT"
  log_destination = aws_cloudwatch_log_group.flow.arn
  iam_role_arn    = aws_iam_role.flow.arn
}
