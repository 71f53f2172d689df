# What the cloud itself says is there. It makes nothing and keeps no state: a run that was killed looks here for what it
# had in hand, and the search for orphans compares this with the states.

provider "aws" {}

data "aws_resourcegroupstaggingapi_resources" "tagged" {
  dynamic "tag_filter" {
    for_each = merge({ "freehold:environment" = var.environment }, var.tags)
    content {
      key    = tag_filter.key
      values = [tag_filter.value]
    }
  }
}

# Roles belong to no region, and so to no list by tag.
data "aws_iam_roles" "named" {
  name_regex = var.role_pattern
}

output "inventory" {
  description = "Tags by ARN, and the names of roles."
  value = {
    tagged = {
      for one in data.aws_resourcegroupstaggingapi_resources.tagged.resource_tag_mapping_list : one.resource_arn => one.tags
    }
    roles = sort(data.aws_iam_roles.named.names)
  }
}
